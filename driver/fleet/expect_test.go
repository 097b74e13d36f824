package fleet_test

import (
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// started is how many engines have been started so far.
func (c *cluster) started() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.starts
}

// The engine of a new volume starts where the volume is going to be attached, while
// Kubernetes binds its claim, and the attachment finds it there.
func TestAnEngineStartsBeforeItsVolumeIsAttached(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	v := newVolume(1, "shop")
	v.Expected = "node3"
	mustCreate(t, f, v)
	until(t, "the engine to be connected", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Connected && v.Node == "node3" && v.Attach == nil && v.State.Store != nil
	})
	mustAttach(t, f, 1, "node3")
	write(t, c.device(id(1)), 1)
	if got := c.started(); got != 1 {
		t.Errorf("%d engines were started, want the one that was there", got)
	}
	mustDetach(t, f, 1)
	until(t, "the engine to be gone", func() bool { return c.node(id(1)) == "" })
	mustAttach(t, f, 1, "node1")
	expect(t, c.device(id(1)), 1)
}

// A volume of which nobody knows where it is going to be has no engine before.
func TestNoEngineStartsAtAGuess(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	v := newVolume(1, "shop")
	v.Node = "node3"
	mustCreate(t, f, v)
	mustAttach(t, f, 1, "node1")
	if got := c.started(); got != 1 || c.node(id(1)) != "node1" {
		t.Errorf("%d engines were started, the last on %s", got, c.node(id(1)))
	}
}

// An engine that is waiting in the wrong place, or for nobody, is in nobody's way.
func TestAnExpectationMayBeWrong(t *testing.T) {
	c := newCluster(t)
	c.expect = 1 // ns
	f := c.open()
	defer func() { closeFleet(t, f) }()
	for n := byte(1); n <= 3; n++ {
		v := newVolume(n, "shop")
		v.Expected = "node3"
		mustCreate(t, f, v)
	}
	until(t, "the engines to be gone", func() bool { return c.node(id(1)) == "" && c.node(id(2)) == "" && c.node(id(3)) == "" })
	closeFleet(t, f)
	c.expect = 0
	f = c.open()
	v := newVolume(4, "bank")
	v.Expected = "node3"
	mustCreate(t, f, v)
	until(t, "the engine to run", func() bool { return c.node(id(4)) == "node3" })
	mustAttach(t, f, 4, "node1")
	write(t, c.device(id(4)), 4)
	if got := c.node(id(4)); got != "node1" {
		t.Errorf("the engine runs on %s", got)
	}
	v = newVolume(5, "mail")
	v.Expected = "node3"
	mustCreate(t, f, v)
	until(t, "the engine to run", func() bool { return c.node(id(5)) == "node3" })
	if err := deleteVolume(t, f, 5); err != nil || c.node(id(5)) != "" {
		t.Errorf("deleted: %v, its engine is on %q", err, c.node(id(5)))
	}
}

// What fills a new volume runs where the volume is going to be, and stays.
func TestAFillRunsWhereTheVolumeIsGoingToBe(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 7)
	mustPin(t, f, "shop", "snap")
	before := c.started()
	v := newVolume(2, "copy")
	v.Expected, v.Fill = "node3", &fleet.Source{Member: id(1), Pin: "snap"}
	mustCreate(t, f, v)
	mustAttach(t, f, 2, "node3")
	expect(t, c.device(id(2)), 7)
	if got := c.started() - before; got != 1 {
		t.Errorf("%d engines were started for the copy", got)
	}
}
