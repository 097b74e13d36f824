package controllerrole

import (
	"context"
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/controller"
)

// unknownCapacity is what is told of a class that does not say what it has: the
// provisioner is to try.
const unknownCapacity = int64(1) << 50

// capacityOf asks the capacities that the backing classes' drivers have
// published. A volume and its journal, of the same size by default, are to fit;
// a journal's own claim is half as large again.
func capacityOf(client kubernetes.Interface) func(context.Context, controller.CapacityQuery) (controller.Capacity, error) {
	return func(ctx context.Context, q controller.CapacityQuery) (controller.Capacity, error) {
		published, err := client.StorageV1().CSIStorageCapacities(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err != nil {
			return controller.Capacity{}, fmt.Errorf("list storage capacities: %w", err)
		}
		room := unknownCapacity
		if most, known := mostOf(published.Items, q.BackingClass, q.Labels); known && q.JournalClass == "" {
			room = most / 2
		} else if known {
			room = most
		}
		if q.JournalClass != "" {
			if most, known := mostOf(published.Items, q.JournalClass, q.Labels); known {
				room = min(room, most/3*2)
			}
		}
		return controller.Capacity{AvailableBytes: room, MaximumVolumeBytes: room}, nil
	}
}

// mostOf is the largest capacity that is published of a class; known is false if
// none is.
func mostOf(published []storagev1.CSIStorageCapacity, class string, labels map[string]string) (most int64, known bool) {
	for i := range published {
		c := &published[i]
		if c.StorageClassName != class || !reaches(c, labels) {
			continue
		}
		known = true
		if c.Capacity != nil {
			most = max(most, c.Capacity.Value())
		}
	}
	return most, known
}

// reaches reports whether a capacity is that of nodes with these labels.
func reaches(c *storagev1.CSIStorageCapacity, set map[string]string) bool {
	if len(set) == 0 || c.NodeTopology == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
	return err == nil && selector.Matches(labels.Set(set))
}

// nodes implements controller.Nodes with the cluster's.
type nodes struct{ client kubernetes.Interface }

var _ controller.Nodes = nodes{}

// Check implements controller.Nodes.
func (n nodes) Check(ctx context.Context, node string) error {
	_, err := n.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("node %s: %w", node, controller.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("look for node %s: %w: %w", node, controller.ErrUnavailable, err)
	}
	return nil
}

// Reaches implements controller.Nodes: only the backing class knows.
func (n nodes) Reaches(map[string]string) bool { return true }
