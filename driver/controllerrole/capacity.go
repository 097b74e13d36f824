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

// capacityOf asks the capacities that the backing class's driver has published.
// A volume and its journal, of the same size by default, are to fit.
func capacityOf(client kubernetes.Interface) func(context.Context, controller.CapacityQuery) (controller.Capacity, error) {
	return func(ctx context.Context, q controller.CapacityQuery) (controller.Capacity, error) {
		published, err := client.StorageV1().CSIStorageCapacities(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
		if err != nil {
			return controller.Capacity{}, fmt.Errorf("list storage capacities: %w", err)
		}
		known, most := false, int64(0)
		for i := range published.Items {
			c := &published.Items[i]
			if c.StorageClassName != q.BackingClass || !reaches(c, q.Labels) {
				continue
			}
			known = true
			if c.Capacity != nil {
				most = max(most, c.Capacity.Value())
			}
		}
		if !known {
			return controller.Capacity{AvailableBytes: unknownCapacity, MaximumVolumeBytes: unknownCapacity}, nil
		}
		return controller.Capacity{AvailableBytes: most / 2, MaximumVolumeBytes: most / 2}, nil
	}
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
