package fleet_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// TestALostMemberIsDeletedWithItsPins: a volume whose engine never comes again drops no pin,
// and can be deleted all the same; the pin goes then.
func TestALostMemberIsDeletedWithItsPins(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	resting(t, c, f)
	closeFleet(t, f)
	c.engineWait = 50 * time.Millisecond
	c.run = func(ctx context.Context, spec fleet.EngineSpec) error {
		if spec.Volume != id(2) {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	f = c.open()
	defer func() { closeFleet(t, f) }()
	if err := f.RetireVolume(bounded(t), id(2)); err != nil {
		t.Fatal(err)
	}
	if err := f.UnpinPoint(bounded(t), "shop", "snap"); !errors.Is(err, fleet.ErrNoEngine) {
		t.Fatalf("drop the pin of a volume whose engine does not come: %v", err)
	}
	if err := f.DeleteVolume(bounded(t), id(2)); err != nil {
		t.Fatalf("delete a volume whose engine does not come: %v", err)
	}
	if err := f.UnpinPoint(bounded(t), "shop", "snap"); err != nil {
		t.Errorf("drop the pin without it: %v", err)
	}
}
