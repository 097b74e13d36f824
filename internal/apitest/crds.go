package apitest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// Install makes the custom resources whose definitions are in the files that
// match a pattern, and returns when the server serves them. Those that are there
// already stay as they are.
func (s *Server) Install(t testing.TB, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions match %s: %v", pattern, err)
	}
	client, err := dynamic.NewForConfig(s.Config())
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		definition := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &definition.Object); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		install(t, client, definition)
	}
}

func install(t testing.TB, client dynamic.Interface, definition *unstructured.Unstructured) {
	t.Helper()
	_, err := client.Resource(definitions).Create(t.Context(), definition, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("create %s: %v", definition.GetName(), err)
	}
	deadline := int64(time.Minute.Seconds())
	w, err := client.Resource(definitions).Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=" + definition.GetName(), TimeoutSeconds: &deadline})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if o, is := event.Object.(*unstructured.Unstructured); is && established(o) {
			return
		}
	}
	t.Fatalf("%s is not established within a minute", definition.GetName())
}

func established(definition *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(definition.Object, "status", "conditions")
	for _, c := range conditions {
		if c, is := c.(map[string]any); is && c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}
