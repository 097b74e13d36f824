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
	// logLines is how much of the log of a container of Lockstep's own a dump has.
	logLines = 60
	// otherLogLines is the same of all others: pods of tests, and sidecars.
	otherLogLines = 20
	// readLogLines is how many are read for that; see uninteresting.
	readLogLines = 400
	// eventCount is how many events a dump has.
	eventCount = 150
	// lineBytes is how much of a line of a log a dump has.
	lineBytes = 400
	// askTimeout bounds the wait for each log: the node may be off.
	askTimeout = 10 * time.Second
	// SystemNamespace is where Lockstep is installed.
	SystemNamespace = "lockstep"
	// volumeLabel is on everything that a volume has in SystemNamespace.
	volumeLabel = "lockstep.dev/volume"
)

// uneventful are reasons of events that are there whatever happens, many of them for
// each pod, and say nothing about a failure.
var uneventful = []string{
	"MissingClusterDNS", // the kit has none, and its kubelets say so of every pod, over and over
	"ExternalExpanding", "ExternalProvisioning", "NoPods", "Provisioning", "Pulled", "WaitForFirstConsumer", "WaitForPodScheduled",
}

// uninteresting is in lines of logs that repeat an event, or that somebody has asked
// whether all is well.
var uninteresting = []string{`msg="Event occurred"`, "method=GetCapacity", "method=Probe", "method=ListVolumes"}

// ownContainers are those of Lockstep itself, and not its sidecars.
var ownContainers = []string{"controller", "engine", "gateway", "node"}

// dump writes down what there is to know after a failure. It goes on after
// errors, which it writes down as well.
type dump struct {
	*Cluster
	out       io.Writer
	namespace string
	since     time.Time       // when the namespace was made: what was before is not its
	others    map[string]bool // journaled volumes of claims of other namespaces
}

// Dump writes the events, pods and logs of a namespace and of Lockstep's own since it
// was made, and the claims, volumes and attachments, but not what other tests'
// volumes have. Pods that are not ready come first.
func (c *Cluster) Dump(ctx context.Context, out io.Writer, namespace string) {
	d := dump{Cluster: c, out: out, namespace: namespace, others: map[string]bool{}}
	d.printf("---- cluster %s at %s\n", c.Name, time.Now().UTC().Format(time.RFC3339))
	if found, err := c.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err == nil && namespace != SystemNamespace {
		d.since = found.CreationTimestamp.Time
	}
	d.nodes(ctx)
	d.volumes(ctx)
	namespaces := []string{namespace, SystemNamespace}
	if namespace == SystemNamespace {
		namespaces = namespaces[1:]
	}
	for _, ns := range namespaces {
		d.claims(ctx, ns)
	}
	d.pods(ctx, namespaces)
	d.events(ctx, namespaces)
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
	left := map[string]bool{}
	for _, v := range volumes.Items {
		ref := v.Spec.ClaimRef
		if ref == nil || ref.Namespace == d.namespace || ref.Namespace == SystemNamespace {
			continue
		}
		left[v.Name] = true
		if v.Spec.CSI != nil {
			d.others[v.Spec.CSI.VolumeHandle] = true
		}
	}
	for _, v := range volumes.Items {
		claim := ""
		if ref := v.Spec.ClaimRef; ref != nil {
			claim = ref.Namespace + "/" + ref.Name
		}
		if left[v.Name] || d.isOthers(claim) {
			left[v.Name] = true
			continue
		}
		d.printf("volume %s: %s, class %s, %s, claim %s, finalizers %v, being deleted %t, %s\n", v.Name, v.Status.Phase, v.Spec.StorageClassName,
			v.Spec.Capacity.Storage(), claim, v.Finalizers, v.DeletionTimestamp != nil, v.Status.Message)
	}
	d.attachments(ctx, left)
}

// isOthers tells whether a name of an object of SystemNamespace has a volume of another
// test in it.
func (d dump) isOthers(name string) bool {
	for volume := range d.others {
		if strings.Contains(name, volume) {
			return true
		}
	}
	return false
}

// attachments writes those of volumes that are not left out.
func (d dump) attachments(ctx context.Context, left map[string]bool) {
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
		if left[volume] {
			continue
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
		if d.others[c.Labels[volumeLabel]] {
			continue
		}
		d.printf("claim %s/%s: %s, volume %s, %s of %s, annotations %v, conditions %v\n", namespace, c.Name, c.Status.Phase, c.Spec.VolumeName,
			c.Status.Capacity.Storage(), c.Spec.Resources.Requests.Storage(), c.Annotations, c.Status.Conditions)
	}
}

// pods writes a line about each pod, then the ends of the logs.
func (d dump) pods(ctx context.Context, namespaces []string) {
	var all []corev1.Pod
	for _, ns := range namespaces {
		list, err := d.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			d.printf("pods of %s: %v\n", ns, err)
			continue
		}
		for _, pod := range list.Items {
			if !d.others[pod.Labels[volumeLabel]] {
				all = append(all, pod)
			}
		}
	}
	for _, ready := range []bool{false, true} {
		for i := range all {
			if pod := &all[i]; ready == (podReady(pod) == nil) {
				d.printf("pod %s/%s: %s, ready %t, being deleted %t\n", pod.Namespace, pod.Name, podState(pod), ready, pod.DeletionTimestamp != nil)
			}
		}
	}
	for i := range all {
		d.logs(ctx, &all[i])
	}
}

// logs writes what a pod's containers have logged; of a sidecar only if it is not
// ready or was started anew.
func (d dump) logs(ctx context.Context, pod *corev1.Pod) {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		ended := status.LastTerminationState.Terminated
		again := ended != nil && ended.FinishedAt.After(d.since)
		own := pod.Namespace == SystemNamespace && slices.Contains(ownContainers, status.Name)
		if !own && !again && status.Ready && pod.Namespace == SystemNamespace {
			continue
		}
		lines := otherLogLines
		if own {
			lines = logLines
		}
		if again {
			d.log(ctx, pod, status.Name, lines, true)
		}
		d.log(ctx, pod, status.Name, lines, false)
	}
}

func (d dump) log(ctx context.Context, pod *corev1.Pod, container string, lines int, previous bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	read := int64(readLogLines)
	options := &corev1.PodLogOptions{Container: container, Previous: previous, TailLines: &read}
	if !d.since.IsZero() {
		options.SinceTime = &metav1.Time{Time: d.since}
	}
	text, err := d.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).DoRaw(ctx)
	title := "log"
	if previous {
		title = "log of the run before"
	}
	kept := endOfLog(string(text), lines)
	switch {
	case err != nil:
		d.printf("%s of %s of pod %s: %v\n", title, container, pod.Name, err)
	case len(kept) > 0:
		d.printf("%s of %s of pod %s:\n    %s\n", title, container, pod.Name, strings.Join(kept, "\n    "))
	}
}

// endOfLog is the last lines of a log, without those that are uninteresting.
func endOfLog(log string, lines int) []string {
	var kept []string
	for line := range strings.Lines(log) {
		if line = strings.TrimSpace(line); line == "" || slices.ContainsFunc(uninteresting, func(part string) bool { return strings.Contains(line, part) }) {
			continue
		}
		if len(line) > lineBytes {
			line = strings.ToValidUTF8(line[:lineBytes], "") + "…"
		}
		kept = append(kept, line)
	}
	return kept[max(0, len(kept)-lines):]
}

// events writes the newest ones of all namespaces, in the order of time.
func (d dump) events(ctx context.Context, namespaces []string) {
	var all []corev1.Event
	for _, ns := range namespaces {
		list, err := d.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			d.printf("events of %s: %v\n", ns, err)
			continue
		}
		all = append(all, list.Items...)
	}
	all = slices.DeleteFunc(all, func(e corev1.Event) bool {
		return slices.Contains(uneventful, e.Reason) || lastSeen(e).Before(d.since) || d.isOthers(e.InvolvedObject.Name)
	})
	slices.SortStableFunc(all, func(a, b corev1.Event) int { return lastSeen(a).Compare(lastSeen(b)) })
	if n := len(all) - eventCount; n > 0 {
		d.printf("%d events before these\n", n)
		all = all[n:]
	}
	for _, e := range all {
		times := ""
		if e.Count > 1 {
			times = fmt.Sprintf(" (%d times)", e.Count)
		}
		message := strings.TrimSpace(e.Message)
		if len(message) > lineBytes {
			message = strings.ToValidUTF8(message[:lineBytes], "") + "…"
		}
		d.printf("event %s %s %s %s: %s: %s%s\n", lastSeen(e).UTC().Format("15:04:05"), e.Type, e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, message, times)
	}
}

// lastSeen is when an event happened last. Of its three times some are not set, which
// depends on who reports it.
func lastSeen(e corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}
