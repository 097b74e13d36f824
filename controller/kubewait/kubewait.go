// Package kubewait waits for the state of objects of Kubernetes.
//
// It is level-triggered: watches only say when to look again, and what is
// looked at is read from the API server. So a watch that breaks, or begins
// late, costs time and never correctness.
package kubewait

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// lookAgain is how long Until waits at most before it looks again.
	lookAgain = 5 * time.Second
	// rewatch is the pause before a watch that ended is begun again.
	rewatch = time.Second
)

// Watch begins a watch of the objects that the state depends on.
type Watch func(ctx context.Context) (watch.Interface, error)

// Watcher is what typed clients have.
type Watcher interface {
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// Named watches one object.
func Named(w Watcher, name string) Watch {
	return Selected(w, fields.OneTermEqualSelector("metadata.name", name).String())
}

// Selected watches the objects that a field selector chooses; all if empty.
func Selected(w Watcher, fields string) Watch {
	return func(ctx context.Context) (watch.Interface, error) {
		return w.Watch(ctx, metav1.ListOptions{FieldSelector: fields})
	}
}

// Until calls check at once, after each change that a watch shows, and every
// five seconds, until it returns true or an error, which is returned. It
// returns ctx's error when that ends.
func Until(ctx context.Context, check func(ctx context.Context) (bool, error), watches ...Watch) error {
	watching, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stop()
	wake := make(chan struct{}, 1)
	for _, w := range watches {
		watchers.Go(func() { follow(watching, w, wake) })
	}
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	for {
		done, err := check(ctx)
		if done || err != nil {
			return err
		}
		timer.Reset(lookAgain)
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow turns what a watch shows into wakes. A watch without a version shows
// what is there first, so that nothing is missed between a look and the watch.
func follow(ctx context.Context, begin Watch, wake chan<- struct{}) {
	for ctx.Err() == nil {
		if w, err := begin(ctx); err == nil {
			pass(ctx, w, wake)
		}
		select {
		case <-time.After(rewatch):
		case <-ctx.Done():
		}
	}
}

func pass(ctx context.Context, w watch.Interface, wake chan<- struct{}) {
	defer w.Stop()
	for {
		select {
		case _, ok := <-w.ResultChan():
			if !ok {
				return
			}
		case <-ctx.Done():
			return
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}
