package fleet_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// A controller that was replaced, and does not know it because it cannot reach the API server,
// does nothing to engines any more that it does not have to save first: it takes no checkpoint, and
// drops no way back of a rewind that it knows nothing of. It is told, and ends.
func TestAControllerThatWasReplacedDoesNothingToEngines(t *testing.T) {
	c := newCluster(t)
	old := c.open()
	defer closeFleet(t, old)
	for n := range 2 {
		mustCreate(t, old, newVolume(byte(n+1), "shop"))
		mustAttach(t, old, byte(n+1), "node1")
	}
	takePoint(t, old, "shop")
	c.db.SetHooks(kv.Hooks{BeforeCommit: func() error { return errors.New("fenced") }})
	c.db = c.db.Clone()
	next := c.open()
	defer closeFleet(t, next)
	until(t, "a point of the next controller's", func() bool {
		_, _, err := next.Groups().TakePoint(bounded(t), "shop", "")
		return err == nil
	})
	if _, _, err := old.Groups().TakePoint(bounded(t), "shop", ""); err == nil {
		t.Error("a controller that was replaced takes a point")
	}
	if err := old.AwaitReplaced(bounded(t)); !errors.Is(err, fleet.ErrReplaced) {
		t.Errorf("it is not told: %v", err)
	}
	if _, err := next.Groups().StartRewind(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	until(t, "the old controller to see the pins, if it sees anything", func() bool {
		v, err := old.Volume(id(1))
		w, other := old.Volume(id(2))
		return errors.Join(err, other) == nil && (!v.Connected || len(v.State.Store.Pins) > 0) && (!w.Connected || len(w.State.Store.Pins) > 0)
	})
	_ = old.Groups().Reconnect(bounded(t), "shop") // as when an engine has come back
	for n := range 2 {
		c.mu.Lock()
		pod := c.engines[id(byte(n+1))].pod
		c.mu.Unlock()
		eng, err := pod.Engine()
		if err != nil {
			t.Fatal(err)
		}
		kept := false
		for pin := range eng.Store().Pins() {
			kept = kept || strings.HasPrefix(pin, "rewind:")
		}
		if !kept {
			t.Errorf("volume %d has lost its way back", n+1)
		}
	}
	if _, err := next.Groups().UndoRewind(bounded(t), "shop", false); err != nil {
		t.Error(err)
	}
}

// Of two controllers that are known to an engine the one with the lower number may be the newest
// all the same: the catalog was lost, and the one before had begun with a clock that was ahead. It ends,
// and the next one has a number above that. One that was replaced saves nothing.
func TestAControllerFindsItsPlaceBehindAClockThatWasAhead(t *testing.T) {
	const ahead = 1 << 62
	c := newCluster(t)
	f := c.open()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	takePoint(t, f, "shop")
	c.mu.Lock()
	err := c.engines[id(1)].pod.NoteController(ahead)
	c.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	c.kill(id(1)) // the next process has read it
	if err := f.AwaitReplaced(bounded(t)); !errors.Is(err, fleet.ErrReplaced) {
		t.Fatalf("it is not told: %v", err)
	}
	closeFleet(t, f)
	f = c.open()
	defer closeFleet(t, f)
	until(t, "a point of a controller that is heard", func() bool {
		_, _, err := f.Groups().TakePoint(bounded(t), "shop", "")
		return err == nil
	})
}
