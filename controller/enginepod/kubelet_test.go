package enginepod_test

import (
	"context"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/kubewait"
)

// kubelet plays scheduler and kubelet of all nodes: pods run on the node that
// they are bound to, and go when they are deleted. It fails the test when an
// engine is deleted that nobody is there to follow, and when there are more
// pods than an engine and its successor.
type kubelet struct {
	rig  *rig
	stop func()

	mu sync.Mutex
	// broken are pods that never run, by name; kept are those whose end is not
	// confirmed. Guarded by mu.
	broken, kept map[string]bool
	// alone allows an engine to end with no other one running. Guarded by mu.
	alone bool
}

func (r *rig) kubelet(broken ...string) *kubelet {
	k := &kubelet{rig: r, broken: map[string]bool{}, kept: map[string]bool{}}
	for _, name := range broken {
		k.broken[name] = true
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		_ = kubewait.Until(ctx, func(ctx context.Context) (bool, error) { return false, k.look(ctx) }, kubewait.Selected(r.client.CoreV1().Pods(r.ns), ""))
	})
	k.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	r.t.Cleanup(k.stop)
	return k
}

func (k *kubelet) set(in map[string]bool, name string, value bool) {
	k.mu.Lock()
	in[name] = value
	k.mu.Unlock()
	// Have it look again.
	_, err := k.rig.client.CoreV1().Pods(k.rig.ns).Patch(k.rig.ctx(), name, "application/merge-patch+json", []byte(`{"metadata": {"annotations": {"looked": "again"}}}`), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		k.rig.t.Error(err)
	}
}

func (k *kubelet) look(ctx context.Context) error {
	pods := k.rig.client.CoreV1().Pods(k.rig.ns)
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil // it ends, or looks again
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(list.Items) > 2 {
		k.rig.t.Errorf("there are %d pods of one volume", len(list.Items))
	}
	for i := range list.Items {
		pod := &list.Items[i]
		switch {
		case pod.DeletionTimestamp != nil && !k.kept[pod.Name]:
			if !k.alone && isRunning(pod) && !anotherRuns(list.Items, pod) {
				k.rig.t.Errorf("pod %s ends and no other one runs", pod.Name)
			}
			zero := int64(0)
			err = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		case pod.DeletionTimestamp == nil && !k.broken[pod.Name] && !isRunning(pod):
			err = k.start(ctx, pod)
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
			k.rig.t.Errorf("kubelet: %v", err)
		}
	}
	return nil
}

func (k *kubelet) start(ctx context.Context, pod *corev1.Pod) error {
	pods := k.rig.client.CoreV1().Pods(k.rig.ns)
	if pod.Spec.NodeName == "" {
		terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
			Target: corev1.ObjectReference{Kind: "Node", Name: terms[0].MatchFields[0].Values[0]}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		if pod, err = pods.Get(ctx, pod.Name, metav1.GetOptions{}); err != nil {
			return err
		}
	}
	ip := "10.0.0.1"
	if pod.Name[len(pod.Name)-1] == 'b' {
		ip = "10.0.0.2"
	}
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "engine", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	_, err := pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

func isRunning(pod *corev1.Pod) bool {
	return len(pod.Status.ContainerStatuses) == 1 && pod.Status.ContainerStatuses[0].State.Running != nil
}

func anotherRuns(all []corev1.Pod, than *corev1.Pod) bool {
	for i := range all {
		if all[i].UID != than.UID && isRunning(&all[i]) {
			return true
		}
	}
	return false
}

// only waits until one pod is left, and returns it.
func (r *rig) only(ok func(*corev1.Pod) bool) *corev1.Pod {
	r.t.Helper()
	var found *corev1.Pod
	err := kubewait.Until(r.ctx(), func(ctx context.Context) (bool, error) {
		list, err := r.client.CoreV1().Pods(r.ns).List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || !ok(&list.Items[0]) {
			return false, err
		}
		found = &list.Items[0]
		return true, nil
	}, kubewait.Selected(r.client.CoreV1().Pods(r.ns), ""))
	r.check(err)
	return found
}

// named waits until a pod is as wanted.
func (r *rig) named(t *testing.T, name string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var found *corev1.Pod
	err := kubewait.Until(r.ctx(), func(ctx context.Context) (bool, error) {
		pod, err := r.client.CoreV1().Pods(r.ns).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		found = pod
		return err == nil && ok(pod), err
	}, kubewait.Named(r.client.CoreV1().Pods(r.ns), name))
	r.check(err)
	return found
}
