package cluster

import (
	"context"

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

// Remove deletes an orphan as orphan.Remove does.
func (c *Cluster) Remove(ctx context.Context, o orphan.Object) error {
	return orphan.Remove(ctx, c.Kube, c.DriverNamespace, o)
}
