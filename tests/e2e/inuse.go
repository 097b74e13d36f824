package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// inUse notes when kubelets report volumes as in use, in Node.status.volumesInUse. A
// kubelet begins to prepare an attachable volume only after it has said so, and it does
// with each of its periodic updates, every nodeStatusUpdateFrequency: 10 s unless it is
// configured otherwise, 5 s in the kit.
type inUse struct {
	mu   sync.Mutex
	seen map[string]time.Time // by volume handle
	stop context.CancelFunc
	done chan error
}

// watchInUse begins to watch the cluster's nodes, until the test ends.
func (c *Cluster) watchInUse(t *testing.T) *inUse {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	changes, err := c.Client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		stop()
		t.Fatalf("watch nodes: %v", err)
	}
	u := &inUse{seen: map[string]time.Time{}, stop: stop, done: make(chan error, 1)}
	go func() {
		defer changes.Stop()
		for change := range changes.ResultChan() {
			if node, ok := change.Object.(*corev1.Node); ok {
				u.note(node)
			}
		}
		u.done <- ctx.Err()
	}()
	t.Cleanup(func() {
		stop()
		if err := <-u.done; err == nil {
			t.Log("the watch of nodes ended early: what kubelets report later was not seen")
		}
	})
	return u
}

func (u *inUse) note(node *corev1.Node) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, name := range node.Status.VolumesInUse {
		// kubernetes.io/csi/DRIVER^HANDLE
		if _, handle, ok := strings.Cut(string(name), "^"); ok && u.seen[handle].IsZero() {
			u.seen[handle] = time.Now()
		}
	}
}

// of is when a volume was first reported, by its handle.
func (u *inUse) of(handle string) (time.Time, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if at := u.seen[handle]; !at.IsZero() {
		return at, nil
	}
	return time.Time{}, fmt.Errorf("no kubelet has reported volume %s", handle)
}
