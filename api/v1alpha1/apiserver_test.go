package v1alpha1_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/internal/apitest"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

const definitions = "../../deploy/charts/lockstep/files/crds"

var crds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// resources are the plurals of the kinds.
var resources = map[string]string{
	"ConsistencyGroup": "consistencygroups",
	"Recovery":         "recoveries",
	"Site":             "sites",
}

// server is a real API server that has the generated definitions.
type server struct {
	client    dynamic.Interface
	namespace string
}

func startServer(t *testing.T) *server {
	t.Helper()
	api := apitest.Start(t)
	client, err := dynamic.NewForConfig(api.Config())
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(definitions, "*.yaml"))
	if err != nil || len(files) != len(resources) {
		t.Fatalf("found definitions %v, %v, want %d", files, err, len(resources))
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		install(t, client, object(t, string(text)))
	}
	return &server{client: client, namespace: api.Namespace(t)}
}

// install makes a definition and returns when the server knows its kind.
func install(t *testing.T, client dynamic.Interface, crd *unstructured.Unstructured) {
	t.Helper()
	strict := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	_, err := client.Resource(crds).Create(t.Context(), crd, strict)
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("create %s: %v", crd.GetName(), err)
	}
	w, err := client.Resource(crds).Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "metadata.name=" + crd.GetName(), TimeoutSeconds: seconds(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			t.Fatalf("watch %s: %v", crd.GetName(), apierrors.FromObject(event.Object))
		}
		if hasCondition(event.Object.(*unstructured.Unstructured), "Established") {
			return
		}
	}
	t.Fatalf("%s is not established within a minute", crd.GetName())
}

func seconds(d time.Duration) *int64 {
	n := int64(d.Seconds())
	return &n
}

func hasCondition(object *unstructured.Unstructured, conditionType string) bool {
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, c := range conditions {
		if c := c.(map[string]any); c["type"] == conditionType && c["status"] == "True" {
			return true
		}
	}
	return false
}

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return o
}

// of returns the interface for the kind of an object.
func (s *server) of(o *unstructured.Unstructured) dynamic.ResourceInterface {
	r := s.client.Resource(v1alpha1.GroupVersion.WithResource(resources[o.GetKind()]))
	if o.GetKind() == "Site" {
		return r
	}
	return r.Namespace(s.namespace)
}

// make creates an object of the kind with this spec, in YAML. It is gone when
// the test ends.
func (s *server) make(t *testing.T, kind, name, spec string) (*unstructured.Unstructured, error) {
	t.Helper()
	o := object(t, "spec: "+spec)
	o.SetAPIVersion(v1alpha1.GroupVersion.String())
	o.SetKind(kind)
	o.SetName(name)
	created, err := s.of(o).Create(t.Context(), o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := s.of(o).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return created, nil
}

// status writes a typed status the way the controller does, and reads the
// object back into read.
func (s *server) status(t *testing.T, o *unstructured.Unstructured, status, read any) {
	t.Helper()
	value, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		t.Fatal(err)
	}
	o.Object["status"] = value
	strict := metav1.UpdateOptions{FieldValidation: metav1.FieldValidationStrict}
	written, err := s.of(o).UpdateStatus(t.Context(), o, strict)
	if err != nil {
		t.Fatal(err)
	}
	o.SetResourceVersion(written.GetResourceVersion())
	got, err := s.of(o).Get(t.Context(), o.GetName(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(got.Object, read, true); err != nil {
		t.Fatal(err)
	}
}
