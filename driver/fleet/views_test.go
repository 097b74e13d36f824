package fleet_test

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// A view that a controller has opened before it ended stays with the engines, where it
// keeps history and, at a replica, an image waiting. Whoever knows its id, which is in
// what that image waits with, closes it.
func TestAViewOfAnEarlierControllerIsClosed(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 1)
	takePoint(t, f, "shop")
	view, err := f.OpenView(bounded(t), "shop", "latest")
	if err != nil {
		t.Fatal(err)
	}
	closeFleet(t, f)
	c.db = c.db.Clone()
	f = c.open()
	defer closeFleet(t, f)
	until(t, "the engine to be connected", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Connected
	})
	if err := f.CloseView(bounded(t), "another"); !errors.Is(err, fleet.ErrNoView) {
		t.Errorf("close a view that nobody has: %v, want ErrNoView", err)
	}
	if err := f.CloseView(bounded(t), view.ID); err != nil {
		t.Fatal(err)
	}
	if err := f.CloseView(bounded(t), view.ID); !errors.Is(err, fleet.ErrNoView) {
		t.Errorf("close it again: %v, want ErrNoView", err)
	}
}
