package enginepod

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// nudgeFirst is how long a pod that has its node may take to start until its
	// kubelet is nudged: more than it takes where nothing is wrong. Each time after
	// that is twice as long, up to nudgeMax, so that pods which wait for something
	// else cost the API server next to nothing.
	nudgeFirst = 2 * time.Second
	nudgeMax   = time.Minute
)

// nudge changes a pod now and then while it has a node and does not start, until
// ctx ends. A kubelet that could not begin with a pod tries again after 10 s to 15 s,
// and at once when the pod changes. It happens when the API server does not let it read
// the pod's claim yet ("no relationship found between node and this object"): what
// a node may read is found out from pods, and that may take longer than the pod's
// way to its kubelet. Meanwhile the I/O of a volume may be waiting.
func (e *Engines) nudge(ctx context.Context, pod *corev1.Pod) {
	pause := e.cfg.Nudge
	for n := 1; ; n++ {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, nudgeMax)
		pods := e.cfg.Client.CoreV1().Pods(e.cfg.Namespace)
		now, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil || now.UID != pod.UID || now.Spec.NodeName == "" || hasBegun(now) {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "annotations": map[string]string{annotationNudged: strconv.Itoa(n)}}})
		if err != nil {
			continue // of strings and numbers: it cannot
		}
		if _, err := pods.Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err == nil {
			e.cfg.Log.Info("engine pod has not started, had its kubelet look again", "pod", pod.Name, "node", now.Spec.NodeName, "time", n)
		}
	}
}

// hasBegun reports whether any of a pod's containers runs or has run.
func hasBegun(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Waiting == nil || c.LastTerminationState.Terminated != nil
	})
}
