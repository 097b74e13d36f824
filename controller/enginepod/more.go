package enginepod

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// moreTime bounds the look for a reason, when the caller's time has run out.
const moreTime = 2 * time.Second

// more is what a pod's own status does not say about why it is as it is: the
// newest warning, of volumes that cannot be attached or mounted, and a node that
// does not answer. Empty, or it begins with "; ".
func (e *Engines) more(pod *corev1.Pod) string {
	ctx, cancel := context.WithTimeout(context.Background(), moreTime)
	defer cancel()
	return e.warning(ctx, pod) + e.silence(ctx, pod.Spec.NodeName)
}

func (e *Engines) warning(ctx context.Context, pod *corev1.Pod) string {
	list, err := e.cfg.Client.CoreV1().Events(e.cfg.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.uid": string(pod.UID), "type": corev1.EventTypeWarning}.String(),
	})
	if err != nil || len(list.Items) == 0 {
		return ""
	}
	newest := list.Items[0]
	for _, event := range list.Items[1:] {
		if newest.LastTimestamp.Before(&event.LastTimestamp) {
			newest = event
		}
	}
	return fmt.Sprintf("; %s: %s", newest.Reason, strings.TrimSpace(newest.Message))
}

func (e *Engines) silence(ctx context.Context, name string) string {
	if name == "" {
		return ""
	}
	node, err := e.cfg.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return fmt.Sprintf("; node %s is not ready since %s: if it is known to be off, taint it node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
				name, c.LastTransitionTime.UTC().Format(time.RFC3339))
		}
	}
	return ""
}
