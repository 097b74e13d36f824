package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// fieldManager is who the API server notes as the owner of what was applied.
const fieldManager = "lockstep-e2e"

// Manifests are objects to apply, in the order of their documents.
type Manifests []*unstructured.Unstructured

// ParseManifests reads YAML documents; lists are taken apart.
func ParseManifests(text []byte) (Manifests, error) {
	var all Manifests
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &object.Object); err != nil {
			return nil, fmt.Errorf("parse manifest: %w", err)
		}
		switch {
		case len(object.Object) == 0: // comments only
		case object.IsList():
			list, err := object.ToList()
			if err != nil {
				return nil, fmt.Errorf("parse list: %w", err)
			}
			for i := range list.Items {
				all = append(all, &list.Items[i])
			}
		case object.GetKind() == "" || object.GetName() == "":
			return nil, fmt.Errorf("manifest has no kind or no name: %.200s", document)
		default:
			all = append(all, object)
		}
	}
}

// ReadManifests reads all *.yaml files of a directory, in the order of their
// names.
func ReadManifests(dir string) (Manifests, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err == nil && len(files) == 0 {
		err = errors.New("no *.yaml there")
	}
	if err != nil {
		return nil, fmt.Errorf("read manifests in %s: %w", dir, err)
	}
	var all Manifests
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		objects, err := ParseManifests(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, objects...)
	}
	return all, nil
}

// Apply makes or updates objects, as kubectl apply --server-side does. Objects
// without a namespace go to the given one. A kind whose CustomResourceDefinition
// came with the same objects is waited for.
func (c *Cluster) Apply(ctx context.Context, namespace string, objects Manifests) error {
	for _, object := range objects {
		err := Await(ctx, volumeTimeout, "cluster "+c.Name+" to take "+describe(object), func(ctx context.Context) error {
			to, err := c.resource(namespace, object)
			if err != nil {
				return err
			}
			_, err = to.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
			if refused(err) {
				return Final(err)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// refused tells an answer that does not change by asking again.
func refused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err)
}

// Delete deletes objects in reverse order, and waits until they are gone.
func (c *Cluster) Delete(ctx context.Context, namespace string, objects Manifests) error {
	var errs []error
	for _, object := range slices.Backward(objects) {
		to, err := c.resource(namespace, object)
		if meta.IsNoMatchError(err) {
			continue // its definition is gone, and with it all objects of the kind
		}
		if err == nil {
			foreground := metav1.DeletePropagationForeground
			err = to.Delete(ctx, object.GetName(), metav1.DeleteOptions{PropagationPolicy: &foreground})
		}
		if err == nil {
			err = Await(ctx, cleanTimeout, describe(object)+" to go", func(ctx context.Context) error {
				_, err := to.Get(ctx, object.GetName(), metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil
				}
				return errors.Join(errors.New("it is there still"), err)
			})
		}
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete %s: %w", describe(object), err))
		}
	}
	return errors.Join(errs...)
}

func describe(object *unstructured.Unstructured) string {
	return object.GetKind() + " " + object.GetName()
}

// resource finds where the API server keeps an object.
func (c *Cluster) resource(namespace string, object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		c.mapper.Reset() // the kind may be new
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return c.Dynamic.Resource(mapping.Resource), nil
	}
	if own := object.GetNamespace(); own != "" {
		namespace = own
	}
	return c.Dynamic.Resource(mapping.Resource).Namespace(namespace), nil
}

// Apply applies YAML in the test's namespace. What it makes outside of the
// namespace is deleted at the test's end, before the namespace is.
func (n *Namespace) Apply(text string) {
	n.t.Helper()
	objects, err := ParseManifests([]byte(text))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		if err := n.Cluster.Delete(ctx, n.Namespace, slices.DeleteFunc(objects, n.owns)); err != nil {
			n.t.Errorf("clean up: %v", err)
		}
	})
	if err := n.Cluster.Apply(n.t.Context(), n.Namespace, objects); err != nil {
		n.t.Fatal(err)
	}
}

// owns tells whether an object goes with the namespace.
func (n *Namespace) owns(object *unstructured.Unstructured) bool {
	kind := object.GroupVersionKind()
	mapping, err := n.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return false // Delete says what is wrong
	}
	own := object.GetNamespace()
	return mapping.Scope.Name() == meta.RESTScopeNameNamespace && (own == "" || own == n.Namespace)
}
