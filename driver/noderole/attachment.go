package noderole

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// attachmentTimeout bounds one question to the API server.
const attachmentTimeout = 10 * time.Second

// AttachmentInCluster is NodeAttachment with the service account of this pod. It is
// nil, and no error, where InCluster is.
func AttachmentInCluster(driver, nodeName string) (func(ctx context.Context, volume string) (string, error), error) {
	config, err := inCluster()
	if config == nil {
		return nil, err
	}
	return NodeAttachment(config, driver, nodeName)
}

// NodeAttachment returns a Config.Attachment that asks an API server for the
// VolumeAttachment of a volume of driver for a Node. It needs the right to get those.
func NodeAttachment(config *rest.Config, driver, nodeName string) (func(ctx context.Context, volume string) (string, error), error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client of the API server: %w", err)
	}
	return func(ctx context.Context, volume string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, attachmentTimeout)
		defer cancel()
		name := attachmentName(volume, driver, nodeName)
		// Without a resource version the answer is the newest that there is, and not
		// what some server of several remembers.
		found, err := client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err != nil && isAbsent(err, name):
			return "", nil
		case err != nil:
			return "", fmt.Errorf("get VolumeAttachment %s: %w", name, err)
		case found.Spec.Attacher != driver || found.Spec.NodeName != nodeName || found.UID == "":
			return "", fmt.Errorf("VolumeAttachment %s is of driver %q and node %q, not of %q and %q", name, found.Spec.Attacher, found.Spec.NodeName, driver, nodeName)
		}
		return string(found.UID), nil
	}, nil
}

// attachmentName is the name that Kubernetes gives to a VolumeAttachment. Its
// controller makes the object by it, and each kubelet looks for it by it before it
// uses a volume (getAttachmentName in pkg/volume/csi/csi_attacher.go).
func attachmentName(volume, driver, nodeName string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(volume+driver+nodeName)))
}

// isAbsent tells the one error that says that there is no VolumeAttachment of that
// name from everything else that has the status 404: the answer of a proxy, or of a
// server that does not have the resource.
func isAbsent(err error, name string) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	if details == nil || details.Group != "storage.k8s.io" || details.Kind != "volumeattachments" || details.Name != name {
		return false
	}
	for _, cause := range details.Causes {
		if cause.Type == metav1.CauseTypeUnexpectedServerResponse {
			return false
		}
	}
	return true
}
