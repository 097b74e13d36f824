package bundle

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// metadataOnly asks the API server for no more than metadata.
const metadataOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

// secrets adds which Secrets the driver's namespace has. Their data does not
// leave the API server.
func (b *writer) secrets(ctx context.Context) error {
	raw, err := b.Cluster.Kube.CoreV1().RESTClient().Get().Namespace(b.Cluster.DriverNamespace).Resource("secrets").
		SetHeader("Accept", metadataOnly).Do(ctx).Raw()
	if err != nil {
		b.missing("secrets", err)
		return nil
	}
	var list unstructured.UnstructuredList
	if err := list.UnmarshalJSON(raw); err != nil {
		b.missing("secrets", err)
		return nil
	}
	text, err := document(list.Items, func(*unstructured.Unstructured) bool { return true }, b.Cluster.DriverNamespace)
	if err != nil {
		b.missing("secrets", err)
		return nil
	}
	return b.add("resources/secrets.yaml", text)
}
