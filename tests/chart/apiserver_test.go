package chart

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/lockstep-csi/lockstep/internal/apitest"
)

func TestMain(m *testing.M) { os.Exit(apitest.Main(m)) }

// cluster is an API server that has the custom resources, ours and those of
// snapshots, but runs nothing.
type cluster struct {
	*apitest.Server
	client dynamic.Interface
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Server: apitest.Start(t)}
	var err error
	if c.client, err = dynamic.NewForConfig(c.Config()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Join(chartDir, "files/crds"), apitest.KitPath("crds")} {
		files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no definitions in %s: %v", dir, err)
		}
		for _, file := range files {
			for _, o := range readFile(t, file) {
				c.define(t, o)
			}
		}
	}
	c.ensure(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	return c
}

func readFile(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

func (c *cluster) ensure(t *testing.T, namespace *corev1.Namespace) {
	t.Helper()
	_, err := c.Client().CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// define makes a custom resource and returns when the server has it.
func (c *cluster) define(t *testing.T, crd *unstructured.Unstructured) {
	t.Helper()
	definitions := c.of(crd)
	if _, err := definitions.Create(t.Context(), crd, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	minute := int64(60)
	w, err := definitions.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + crd.GetName(), TimeoutSeconds: &minute})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			t.Fatal(apierrors.FromObject(event.Object))
		}
		conditions, _, _ := unstructured.NestedSlice(event.Object.(*unstructured.Unstructured).Object, "status", "conditions")
		for _, condition := range conditions {
			if condition := condition.(map[string]any); condition["type"] == "Established" && condition["status"] == "True" {
				return
			}
		}
	}
	t.Fatalf("%s is not established within a minute", crd.GetName())
}

// of returns the interface for an object's kind.
func (c *cluster) of(o *unstructured.Unstructured) dynamic.ResourceInterface {
	resource, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	switch ns := o.GetNamespace(); {
	case slices.Contains(clusterScoped, o.GetKind()):
		return c.client.Resource(resource)
	case ns == "":
		return c.client.Resource(resource).Namespace(namespace)
	default:
		return c.client.Resource(resource).Namespace(ns)
	}
}

// take has the server check an object as if it were created, with everything
// but the effect.
func (c *cluster) take(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	if o.GetKind() == "ServiceMonitor" {
		return // of the Prometheus operator, whose definitions are not here
	}
	options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	if _, err := c.of(o).Create(t.Context(), o, options); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
}

func TestServerTakesChart(t *testing.T) {
	c := startCluster(t)
	forEachRendering(t, func(t *testing.T, objects []*unstructured.Unstructured) {
		for _, o := range objects {
			c.take(t, o)
		}
		template := engineTemplate(t, objects)
		template.Namespace = namespace
		options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
		if _, err := c.Client().CoreV1().PodTemplates(namespace).Create(t.Context(), template, options); err != nil {
			t.Errorf("the engine's template: %v", err)
		}
	})
}

func TestServerTakesFiles(t *testing.T) {
	c := startCluster(t)
	for _, pattern := range []string{"examples/*.yaml", "deploy/manifests/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		for _, file := range files {
			t.Run(filepath.Base(file), func(t *testing.T) {
				for _, o := range readFile(t, file) {
					if ns := o.GetNamespace(); ns != "" {
						c.ensure(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
					}
					c.take(t, o)
				}
			})
		}
	}
}

// review is one question to the API server: may a role do that?
type review struct {
	role, verb, group, resource, name, namespace string
	allowed                                      bool
}

// The rights as the API server understands them.
func TestServerGrantsRights(t *testing.T) {
	c := startCluster(t)
	objects := mustRender(t, everything)
	c.grant(t, objects)
	const elsewhere = "default"
	for _, r := range []review{
		{"controller", "create", "", "pods", "", namespace, true},
		{"controller", "create", "", "pods", "", elsewhere, false},
		{"controller", "delete", "", "pods", "", elsewhere, false},
		{"controller", "get", "", "secrets", "lockstep-ca", namespace, true},
		{"controller", "get", "", "secrets", "lockstep-peer-tls", namespace, false},
		{"controller", "list", "", "secrets", "", namespace, false},
		{"controller", "get", "", "secrets", "lockstep-ca", elsewhere, false},
		{"controller", "update", "", "configmaps", "lockstep-catalog-commit", namespace, true},
		{"controller", "update", "", "configmaps", "x", elsewhere, false},
		// What the catalog has is never deleted, so that nothing of it comes back to life.
		{"controller", "delete", "", "configmaps", "lockstep-catalog-000000", namespace, false},
		{"controller", "patch", "", "configmaps", "lockstep-catalog-commit", namespace, false},
		{"controller", "create", "", "persistentvolumeclaims", "", elsewhere, true},
		{"controller", "delete", "", "persistentvolumeclaims", "", elsewhere, false},
		{"controller", "delete", "", "persistentvolumeclaims", "", namespace, true},
		{"controller", "update", "apps", "statefulsets/scale", "", elsewhere, true},
		{"controller", "update", "apps", "statefulsets", "", elsewhere, false},
		{"controller", "update", "lockstep.dev", "recoveries/status", "", elsewhere, true},
		{"controller", "update", "lockstep.dev", "recoveries", "", elsewhere, true},
		{"controller", "create", "lockstep.dev", "recoveries", "", elsewhere, false},
		{"controller", "delete", "lockstep.dev", "recoveries", "", elsewhere, false},
		{"controller", "patch", "storage.k8s.io", "volumeattachments/status", "", "", true},
		{"engine", "get", "coordination.k8s.io", "leases", "engine-x", namespace, true},
		{"engine", "patch", "coordination.k8s.io", "leases", "engine-x", namespace, true},
		{"engine", "create", "coordination.k8s.io", "leases", "engine-x", namespace, false},
		{"engine", "delete", "coordination.k8s.io", "leases", "engine-x", namespace, false},
		{"engine", "patch", "coordination.k8s.io", "leases", "x", elsewhere, false},
		{"engine", "get", "", "secrets", "lockstep-tls-engine", namespace, false},
		{"engine", "get", "", "pods", "", namespace, false},
		{"gateway", "list", "", "pods", "", namespace, true},
		{"gateway", "list", "", "pods", "", elsewhere, false},
		{"gateway", "delete", "", "pods", "", namespace, false},
		{"node", "get", "", "nodes", "x", "", true},
		{"node", "list", "", "nodes", "", "", false},
		{"node", "patch", "", "nodes", "x", "", false},
		{"node", "get", "", "pods", "", namespace, false},
	} {
		c.ask(t, podOf(t, objects, r.role).Spec.ServiceAccountName, r)
	}
}

// grant makes the roles and bindings, until the test ends.
func (c *cluster) grant(t *testing.T, objects []*unstructured.Unstructured) {
	t.Helper()
	for _, o := range objects {
		if o.GroupVersionKind().Group != rbacv1.GroupName {
			continue
		}
		client := c.of(o)
		if _, err := client.Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := client.Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func (c *cluster) ask(t *testing.T, account string, r review) {
	t.Helper()
	resource, subresource, _ := strings.Cut(r.resource, "/")
	answer, err := c.Client().AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:" + namespace + ":" + account,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: r.verb, Group: r.group, Resource: resource, Subresource: subresource, Name: r.name, Namespace: r.namespace},
		}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status.Allowed != r.allowed {
		t.Errorf("%s may %s %s %s in %q: got %v, want %v", r.role, r.verb, r.resource, r.name, r.namespace, answer.Status.Allowed, r.allowed)
	}
}
