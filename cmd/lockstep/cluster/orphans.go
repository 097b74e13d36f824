package cluster

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/orphan"
)

// KindVolume is a volume of the catalog, which no object shows.
const KindVolume = "Volume"

// Owned lists everything that was made for volumes. Call it before asking the
// controller for its volumes: a volume is in the catalog before anything is
// made for it, and until all of it is gone.
func (c *Cluster) Owned(ctx context.Context) ([]orphan.Object, error) {
	return orphan.List(ctx, c.Kube, c.DriverNamespace)
}

// Named are the volumes that PersistentVolumes name, with the name of one for each.
// Call it after Owned.
func (c *Cluster) Named(ctx context.Context) (map[string]string, error) {
	list, err := c.Kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("find out which volumes PersistentVolumes name: %w", err)
	}
	named := map[string]string{}
	for i := range list.Items {
		if csi := list.Items[i].Spec.CSI; csi != nil {
			named[csi.VolumeHandle] = list.Items[i].Name
		}
	}
	return named, nil
}

// Remove deletes an orphan as orphan.Remove does.
func (c *Cluster) Remove(ctx context.Context, o orphan.Object) error {
	return orphan.Remove(ctx, c.Kube, c.DriverNamespace, o)
}
