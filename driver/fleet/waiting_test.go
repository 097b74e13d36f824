package fleet_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/groups"
)

// unknowing has engines that start from now on not take a device over, nor know whether
// one waits, the first times that they ask.
func (c *cluster) unknowing(times int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var asked atomic.Int64
	c.unfit = errors.New("no holder answers")
	c.waiting = func() error {
		if asked.Add(1) <= times {
			return errors.New("no holder answers")
		}
		return nil
	}
}

// A detach that reaches an engine which has just started, and does not know whether the
// device of the one before waits, is refused as if that were open, and may be repeated.
func TestADetachDuringARestartIsRefused(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	c.unknowing(1)
	c.kill(id(1))
	until(t, "the next engine to answer", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Connected && v.State.Device == "" && v.State.Error != ""
	})
	if err := f.Detach(bounded(t), id(1)); !errors.Is(err, groups.ErrInUse) {
		t.Fatalf("detach: %v, want ErrInUse", err)
	}
	if v, _ := f.Volume(id(1)); v.Attach == nil || v.Attach.Leaving {
		t.Errorf("after a refusal it is attached as %+v", v.Attach)
	}
	mustDetach(t, f, 1)
}

// An engine that was given up while its volume was detached, and starts again, tries
// until it knows that no device waits there, and its group goes on with it.
func TestAnEngineThatDoesNotKnowYetTriesOn(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := byte(1); n <= 2; n++ {
		mustCreate(t, f, newVolume(n, "shop"))
		mustAttach(t, f, n, "node1")
	}
	deaf := func(deaf bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.deaf = deaf
	}
	c.unknowing(1)
	deaf(true)
	c.kill(id(1))
	mustDetach(t, f, 1)
	deaf(false)
	until(t, "points of both members again", func() bool {
		p, _, err := f.Groups().TakePoint(bounded(t), "shop", "")
		return err == nil && len(p.Members) == 2
	})
}
