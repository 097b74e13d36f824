package e2e

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// logLines is how much of a container's log a dump has.
	logLines = 60
	// SystemNamespace is where Lockstep is installed.
	SystemNamespace = "lockstep"
)

// dump writes down what there is to know after a failure. It goes on after
// errors, which it writes down as well.
type dump struct {
	*Cluster
	out io.Writer
}

// Dump writes the events, pods and logs of a namespace and of Lockstep's own,
// and the claims, volumes and attachments of the cluster.
func (c *Cluster) Dump(ctx context.Context, out io.Writer, namespace string) {
	d := dump{c, out}
	d.printf("---- cluster %s at %s\n", c.Name, time.Now().UTC().Format(time.RFC3339))
	d.nodes(ctx)
	d.volumes(ctx)
	for _, ns := range []string{namespace, SystemNamespace} {
		d.claims(ctx, ns)
		d.pods(ctx, ns)
		d.events(ctx, ns)
	}
	d.printf("---- end of cluster %s\n", c.Name)
}

// printf has nobody to tell that the output is broken.
func (d dump) printf(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format, args...) }

func (d dump) nodes(ctx context.Context) {
	list, err := d.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		d.printf("nodes: %v\n", err)
		return
	}
	for i := range list.Items {
		node := &list.Items[i]
		d.printf("node %s: %v, taints %v, volumes in use %v\n", node.Name, orReady(nodeReady(node)), node.Spec.Taints, node.Status.VolumesInUse)
	}
}

func orReady(err error) any {
	if err == nil {
		return "Ready"
	}
	return err
}

func (d dump) volumes(ctx context.Context) {
	volumes, err := d.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		d.printf("volumes: %v\n", err)
		return
	}
	for _, v := range volumes.Items {
		claim := ""
		if ref := v.Spec.ClaimRef; ref != nil {
			claim = ref.Namespace + "/" + ref.Name
		}
		d.printf("volume %s: %s, class %s, %s, claim %s, finalizers %v, being deleted %t, %s\n", v.Name, v.Status.Phase, v.Spec.StorageClassName,
			v.Spec.Capacity.Storage(), claim, v.Finalizers, v.DeletionTimestamp != nil, v.Status.Message)
	}
	attachments, err := d.Client.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
	if err != nil {
		d.printf("attachments: %v\n", err)
		return
	}
	for _, a := range attachments.Items {
		volume := "inline"
		if name := a.Spec.Source.PersistentVolumeName; name != nil {
			volume = *name
		}
		d.printf("attachment of %s to %s by %s: attached %t, being deleted %t", volume, a.Spec.NodeName, a.Spec.Attacher, a.Status.Attached, a.DeletionTimestamp != nil)
		if e := a.Status.AttachError; e != nil {
			d.printf(", attach: %s", e.Message)
		}
		if e := a.Status.DetachError; e != nil {
			d.printf(", detach: %s", e.Message)
		}
		d.printf("\n")
	}
}

func (d dump) claims(ctx context.Context, namespace string) {
	list, err := d.Client.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		d.printf("claims of %s: %v\n", namespace, err)
		return
	}
	for _, c := range list.Items {
		d.printf("claim %s/%s: %s, volume %s, %s of %s, annotations %v, conditions %v\n", namespace, c.Name, c.Status.Phase, c.Spec.VolumeName,
			c.Status.Capacity.Storage(), c.Spec.Resources.Requests.Storage(), c.Annotations, c.Status.Conditions)
	}
}

func (d dump) pods(ctx context.Context, namespace string) {
	list, err := d.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		d.printf("pods of %s: %v\n", namespace, err)
		return
	}
	for i := range list.Items {
		pod := &list.Items[i]
		d.printf("pod %s/%s: %s, being deleted %t\n", namespace, pod.Name, podState(pod), pod.DeletionTimestamp != nil)
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if status.RestartCount > 0 {
				d.log(ctx, pod, status.Name, true)
			}
			d.log(ctx, pod, status.Name, false)
		}
	}
}

func (d dump) log(ctx context.Context, pod *corev1.Pod, container string, previous bool) {
	lines := int64(logLines)
	text, err := d.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container, Previous: previous, TailLines: &lines}).DoRaw(ctx)
	title := "log"
	if previous {
		title = "log of the run before"
	}
	switch {
	case err != nil:
		d.printf("  %s of %s: %v\n", title, container, err)
	case len(text) > 0:
		d.printf("  %s of %s:\n    %s\n", title, container, strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n    "))
	}
}

func (d dump) events(ctx context.Context, namespace string) {
	list, err := d.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		d.printf("events of %s: %v\n", namespace, err)
		return
	}
	when := func(e corev1.Event) time.Time {
		if e.LastTimestamp.IsZero() {
			return e.EventTime.Time
		}
		return e.LastTimestamp.Time
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return when(a).Compare(when(b)) })
	for _, e := range list.Items {
		d.printf("event %s %s %s %s: %s: %s (%d times)\n", when(e).UTC().Format("15:04:05"), e.Type, e.InvolvedObject.Kind, e.InvolvedObject.Name,
			e.Reason, strings.TrimSpace(e.Message), max(e.Count, 1))
	}
}
