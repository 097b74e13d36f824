package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestParseManifests(t *testing.T) {
	const one, two = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\n", "apiVersion: v1\nkind: Secret\nmetadata: {name: two}\n"
	for _, c := range []struct {
		name, text string
		want       string // kinds and names
		fails      bool
	}{
		{name: "none", text: "# nothing\n---\n---\n"},
		{name: "two", text: one + "---\n" + two, want: "ConfigMap one, Secret two"},
		{name: "a list", text: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n", want: "Pod a, Pod b"},
		{name: "no kind", text: "metadata: {name: one}\n", fails: true},
		{name: "no name", text: "apiVersion: v1\nkind: Pod\n", fails: true},
		{name: "no YAML", text: "a: [", fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects, err := ParseManifests([]byte(c.text))
			if (err != nil) != c.fails {
				t.Fatalf("parse: %v, want an error: %t", err, c.fails)
			}
			var got []string
			for _, o := range objects {
				got = append(got, describe(o))
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}

func TestWorkloadReady(t *testing.T) {
	for _, c := range []struct {
		name, text string
		ready      bool
	}{
		{"a deployment", "{kind: Deployment, metadata: {generation: 2}, spec: {replicas: 2}, status: {observedGeneration: 2, readyReplicas: 2, updatedReplicas: 2}}", true},
		{"nobody has looked", "{kind: Deployment, metadata: {generation: 2}, spec: {replicas: 1}, status: {observedGeneration: 1, readyReplicas: 1, updatedReplicas: 1}}", false},
		{"one is missing", "{kind: StatefulSet, metadata: {generation: 1}, spec: {replicas: 2}, status: {observedGeneration: 1, readyReplicas: 1, updatedReplicas: 2}}", false},
		{"one is old", "{kind: StatefulSet, metadata: {generation: 1}, spec: {replicas: 2}, status: {observedGeneration: 1, readyReplicas: 2, updatedReplicas: 1}}", false},
		{"no status", "{kind: DaemonSet, metadata: {generation: 1}}", false},
		{"all nodes", "{kind: DaemonSet, metadata: {generation: 1}, status: {observedGeneration: 1, desiredNumberScheduled: 2, numberReady: 2, updatedNumberScheduled: 2}}", true},
		{"a node is missing", "{kind: DaemonSet, metadata: {generation: 1}, status: {observedGeneration: 1, desiredNumberScheduled: 2, numberReady: 1, updatedNumberScheduled: 2}}", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			object := &unstructured.Unstructured{}
			text, err := yaml.YAMLToJSON([]byte("{apiVersion: apps/v1, " + c.text[1:]))
			if err != nil {
				t.Fatal(err)
			}
			if err := object.UnmarshalJSON(text); err != nil {
				t.Fatal(err)
			}
			if err := workloadReady(object); (err == nil) != c.ready {
				t.Errorf("ready: %v, want %t", err, c.ready)
			}
		})
	}
}

func TestPodReady(t *testing.T) {
	ready := []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	deleted := metav1.Now()
	for name, c := range map[string]struct {
		pod          corev1.Pod
		ready, final bool
	}{
		"runs":                {pod: corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready}}, ready: true},
		"starts":              {pod: corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}},
		"has ended":           {pod: corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}, final: true},
		"goes":                {pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deleted}, Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready}}},
		"goes, and has ended": {pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &deleted}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}},
	} {
		err := podReady(&c.pod)
		var end final
		if (err == nil) != c.ready || errors.As(err, &end) != c.final {
			t.Errorf("a pod that %s: %v, want ready %t, final %t", name, err, c.ready, c.final)
		}
	}
}

func TestParseFio(t *testing.T) {
	const report = `{"jobs": [{"error": 0, "total_err": 0, "write": {"total_ios": 7, "lat_ns": {"max": 1500}}}]}`
	result, err := parseFio("128", "fio: terminating on signal 2\n"+report)
	if err != nil || result.Writes != 7 || result.LongestWrite != 1500*time.Nanosecond {
		t.Errorf("a good report: %+v, %v", result, err)
	}
	for name, c := range map[string][2]string{
		"exit status":   {"1", report},
		"errors":        {"0", strings.Replace(report, `"total_err": 0`, `"total_err": 1`, 1)},
		"error number":  {"0", strings.Replace(report, `"error": 0`, `"error": 84`, 1)},
		"nothing wrote": {"0", strings.Replace(report, `"total_ios": 7`, `"total_ios": 0`, 1)},
		"no job":        {"0", `{"jobs": []}`},
		"cut off":       {"0", report[:30]},
		"empty":         {"0", ""},
	} {
		if _, err := parseFio(c[0], c[1]); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAwait(t *testing.T) {
	calls := 0
	err := Await(t.Context(), time.Minute, "the third look", func(context.Context) error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("a condition that comes true: %v after %d looks", err, calls)
	}
	hopeless := errors.New("it is broken")
	calls = 0
	err = Await(t.Context(), time.Minute, "it", func(context.Context) error { calls++; return Final(hopeless) })
	if !errors.Is(err, hopeless) || calls != 1 {
		t.Errorf("a condition that cannot come true: %v after %d looks", err, calls)
	}
	err = Await(t.Context(), 10*time.Millisecond, "the moon", func(context.Context) error { return errors.New("it is Pending") })
	if err == nil || !strings.Contains(err.Error(), "for the moon") || !strings.Contains(err.Error(), "it is Pending") {
		t.Errorf("a time-out does not say what was awaited and what was there: %v", err)
	}
}

func TestEnvironmentIncomplete(t *testing.T) {
	if _, err := EnvironmentOf(func(string) string { return "" }); err == nil {
		t.Error("no error without any variable")
	}
}
