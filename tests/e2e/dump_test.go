package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

// dumped is a dump, and its lines that begin with a word.
func dumped(t *testing.T, namespace string, objects ...runtime.Object) (text string, lines func(word string) []string) {
	t.Helper()
	c := &Cluster{Name: "a", Client: fake.NewClientset(objects...)}
	var out strings.Builder
	c.Dump(t.Context(), &out, namespace)
	return out.String(), func(word string) []string {
		var found []string
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, word+" ") {
				found = append(found, line)
			}
		}
		return found
	}
}

func made(namespace, name string, at time.Time, labels ...string) metav1.ObjectMeta {
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(at)}
	for _, volume := range labels {
		meta.Labels = map[string]string{volumeLabel: volume}
	}
	return meta
}

// TestDumpEvents checks which events a dump has, in which order.
func TestDumpEvents(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	number := 0
	event := func(namespace, object, reason string, after time.Duration) *corev1.Event {
		number++
		return &corev1.Event{ObjectMeta: made(namespace, fmt.Sprintf("e%d", number), began), InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: object},
			Reason: reason, Type: "Normal", LastTimestamp: metav1.NewTime(began.Add(after)), Count: 2}
	}
	reported := event("mine", "third", "Scheduled", 0)
	reported.LastTimestamp, reported.EventTime, reported.Count = metav1.Time{}, metav1.NewMicroTime(began.Add(3*time.Second)), 0
	_, lines := dumped(t, "mine",
		&corev1.Namespace{ObjectMeta: made("", "mine", began)},
		&corev1.PersistentVolume{ObjectMeta: made("", "pv", began), Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "others", Name: "data"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{VolumeHandle: "abc"}}}},
		event("mine", "second", "Killing", 2*time.Second),
		event("mine", "first", "MissingClusterDNS", time.Hour),
		event(SystemNamespace, "first", "Unhealthy", time.Second),
		event(SystemNamespace, "before", "Killing", -time.Second),
		event(SystemNamespace, "engine-abc", "Killing", time.Second),
		event("others", "else", "Killing", time.Second),
		reported)
	want := []string{
		"event 03:04:06 Normal Pod first: Unhealthy:  (2 times)\n",
		"event 03:04:07 Normal Pod second: Killing:  (2 times)\n",
		"event 03:04:08 Normal Pod third: Scheduled: \n",
	}
	if got := lines("event"); !slices.Equal(got, want) {
		t.Errorf("events are\n%q\nwant\n%q", got, want)
	}
}

// TestDumpPods checks whose logs a dump has, and that pods which are not ready come first.
func TestDumpPods(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	pod := func(namespace, name string, ready bool, volume string, containers ...corev1.ContainerStatus) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: made(namespace, name, began, volume), Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: containers}}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		return p
	}
	ended := func(after time.Duration) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(began.Add(after))}}
	}
	text, lines := dumped(t, "mine",
		&corev1.Namespace{ObjectMeta: made("", "mine", began)},
		&corev1.PersistentVolume{ObjectMeta: made("", "pv", began), Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "others", Name: "data"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{VolumeHandle: "abc"}}}},
		pod("mine", "a", true, "", corev1.ContainerStatus{Name: "main", Ready: true}),
		pod("mine", "b", false, "", corev1.ContainerStatus{Name: "main"}),
		pod(SystemNamespace, "controller", true, "", corev1.ContainerStatus{Name: "controller", Ready: true, LastTerminationState: ended(-time.Hour)},
			corev1.ContainerStatus{Name: "attacher", Ready: true}, corev1.ContainerStatus{Name: "resizer", Ready: true, LastTerminationState: ended(time.Second)},
			corev1.ContainerStatus{Name: "snapshotter"}),
		pod(SystemNamespace, "engine-abc", true, "abc", corev1.ContainerStatus{Name: "engine", Ready: true}))
	var order []string
	for _, line := range lines("pod") {
		order = append(order, strings.TrimSuffix(strings.Fields(line)[1], ":"))
	}
	if want := []string{"mine/b", "mine/a", SystemNamespace + "/controller"}; !slices.Equal(order, want) {
		t.Errorf("pods are %q, want %q", order, want)
	}
	for _, c := range []struct {
		log  string
		want bool
	}{
		{"log of main of pod a:", true},
		{"log of main of pod b:", true},
		{"log of controller of pod controller:", true},
		{"log of the run before of controller", false}, // that was before the test
		{"log of attacher", false},
		{"log of the run before of resizer of pod controller:", true},
		{"log of resizer", true},
		{"log of snapshotter", true},
		{"log of engine", false}, // another test's
	} {
		if got := strings.Contains(text, c.log); got != c.want {
			t.Errorf("the dump has %q: %t, want %t:\n%s", c.log, got, c.want, text)
		}
	}
}

func TestEndOfLog(t *testing.T) {
	log := "one\n\n  two\nlevel=DEBUG msg=\"CSI call\" method=GetCapacity\nthree\n" + strings.Repeat("x", 2*lineBytes) + "\n"
	got := endOfLog(log, 3)
	if want := []string{"two", "three", strings.Repeat("x", lineBytes) + "…"}; !slices.Equal(got, want) {
		t.Errorf("the end is %q, want %q", got, want)
	}
	if got := endOfLog("", 3); len(got) != 0 {
		t.Errorf("the end of nothing is %q", got)
	}
}
