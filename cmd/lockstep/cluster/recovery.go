package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// watchPause is how long Follow waits before it looks again, when a watch has
// ended.
const watchPause = time.Second

// ErrRecoveryGone is returned by Follow when somebody deleted the recovery.
var ErrRecoveryGone = errors.New("the recovery was deleted; what it had begun goes on")

func (c *Cluster) recoveries(namespace string) dynamic.ResourceInterface {
	return c.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("recoveries")).Namespace(namespace)
}

// CreateRecovery makes a Recovery, in the namespace of its group. With dryRun
// the API server checks it, and the user's rights, and makes none.
func (c *Cluster) CreateRecovery(ctx context.Context, namespace, namePrefix string, spec v1alpha1.RecoverySpec, dryRun bool) (*v1alpha1.Recovery, error) {
	recovery := &v1alpha1.Recovery{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Recovery"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: namePrefix},
		Spec:       spec,
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(recovery)
	if err != nil {
		return nil, fmt.Errorf("encode recovery: %w", err)
	}
	// The controller writes the status.
	delete(content, "status")
	options := metav1.CreateOptions{FieldManager: "kubectl-lockstep", FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	made, err := c.recoveries(namespace).Create(ctx, &unstructured.Unstructured{Object: content}, options)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("make a recovery in namespace %s: %w: is the namespace there, and Lockstep installed?", namespace, err)
	}
	if err != nil {
		return nil, fmt.Errorf("make a recovery in namespace %s: %w", namespace, err)
	}
	return asRecovery(made)
}

// FollowRecovery returns a recovery that has ended, however. Until then it
// calls changed with each state of it that is seen. Watches that break are begun
// anew. It fails when ctx ends, with the cause of that; when the recovery is
// deleted, with ErrRecoveryGone; and when the API server refuses.
func (c *Cluster) FollowRecovery(ctx context.Context, namespace, name string, changed func(*v1alpha1.Recovery)) (*v1alpha1.Recovery, error) {
	for {
		found, err := c.recoveries(namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case apierrors.IsNotFound(err):
			return nil, ErrRecoveryGone
		case err != nil && !passing(err):
			return nil, fmt.Errorf("look at recovery %s/%s: %w", namespace, name, err)
		case err == nil:
			ended, err := c.watchRecovery(ctx, found, changed)
			if ended != nil || err != nil {
				return ended, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(watchPause):
		}
	}
}

// passing reports an error after which it is worth trying again: the API server
// is away or overloaded.
func passing(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsTimeout(err) || apierrors.IsInternalError(err)
}

// watchRecovery looks at a recovery from the state on that was found. It
// returns nil and no error when the watch has ended before the recovery.
func (c *Cluster) watchRecovery(ctx context.Context, found *unstructured.Unstructured, changed func(*v1alpha1.Recovery)) (*v1alpha1.Recovery, error) {
	recovery, err := asRecovery(found)
	if err != nil {
		return nil, err
	}
	changed(recovery)
	if recovery.Status.Phase.Ended() {
		return recovery, nil
	}
	w, err := c.recoveries(recovery.Namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", recovery.Name).String(), ResourceVersion: recovery.ResourceVersion})
	if err != nil {
		if Denied(err) {
			return nil, fmt.Errorf("follow recovery %s/%s: %w", recovery.Namespace, recovery.Name, err)
		}
		return nil, nil
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		object, isRecovery := event.Object.(*unstructured.Unstructured)
		switch {
		case event.Type == watch.Deleted:
			return nil, ErrRecoveryGone
		case event.Type == watch.Error || !isRecovery:
			return nil, nil // the version is too old: look again
		case event.Type == watch.Bookmark:
			continue
		}
		if recovery, err = asRecovery(object); err != nil {
			return nil, err
		}
		changed(recovery)
		if recovery.Status.Phase.Ended() {
			return recovery, nil
		}
	}
	return nil, nil
}

func asRecovery(object *unstructured.Unstructured) (*v1alpha1.Recovery, error) {
	recovery := &v1alpha1.Recovery{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, recovery); err != nil {
		return nil, fmt.Errorf("read recovery %s/%s: %w", object.GetNamespace(), object.GetName(), err)
	}
	return recovery, nil
}
