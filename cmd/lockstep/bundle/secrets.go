package bundle

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// secrets adds which Secrets the driver's namespace has. Their data does not
// leave the API server.
func (b *writer) secrets(ctx context.Context) error {
	list, err := b.Cluster.Metadata.Resource(core("secrets")).Namespace(b.Cluster.DriverNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		b.missing("secrets", err)
		return nil
	}
	var objects []unstructured.Unstructured
	for n := range list.Items {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&list.Items[n])
		if err != nil {
			b.missing("secrets", err)
			return nil
		}
		objects = append(objects, unstructured.Unstructured{Object: content})
	}
	text, err := document(objects, func(*unstructured.Unstructured) bool { return true })
	if err != nil {
		b.missing("secrets", err)
		return nil
	}
	return b.add("resources/secrets.yaml", text)
}
