package fleet_test

import (
	"context"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// copyOf is a volume that is to be made from a pin of volume 1.
func copyOf(n byte, groupName string) fleet.NewVolume {
	v := newVolume(n, groupName)
	v.Fill = &fleet.Source{Member: id(1), Pin: "snap"}
	return v
}

// resting has a group of two volumes, the first of them pinned with 7 in it, of which no
// engine runs.
func resting(t *testing.T, c *cluster, f *fleet.Fleet) {
	t.Helper()
	mustCreate(t, f, newVolume(1, "shop"))
	mustCreate(t, f, newVolume(2, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 7)
	mustDetach(t, f, 1)
	if _, _, err := f.PinPoint(bounded(t), "shop", "snap", ""); err != nil {
		t.Fatal(err)
	}
	until(t, "the group to rest", func() bool { return c.node(id(1)) == "" && c.node(id(2)) == "" })
}

// TestACopyIsMadeWhereTheSchedulerChooses: the backing volume waits for the engine, which
// is filled from one that does not run at first.
func TestACopyIsMadeWhereTheSchedulerChooses(t *testing.T) {
	c := newCluster(t)
	c.scheduled = true
	f := c.open()
	defer closeFleet(t, f)
	resting(t, c, f)
	mustCreate(t, f, copyOf(3, "copy"))
	mustAttach(t, f, 3, "node2")
	expect(t, c.device(id(3)), 7)
}

// TestACopyGoesOnWithAnotherEngineOfItsSource: the engine that is copied from is replaced,
// by an upgrade or because its node is drained, in the middle.
func TestACopyGoesOnWithAnotherEngineOfItsSource(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	resting(t, c, f)
	killed := false
	c.copying = func(ctx context.Context) error {
		if killed {
			return nil
		}
		killed = true
		go c.kill(id(1))
		<-ctx.Done()
		return ctx.Err()
	}
	mustCreate(t, f, copyOf(3, "copy"))
	mustAttach(t, f, 3, "node2")
	expect(t, c.device(id(3)), 7)
}
