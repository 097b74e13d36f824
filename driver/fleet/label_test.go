package fleet_test

import "testing"

func TestTheBackingVolumeSaysItsGroup(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	says := func(group string) func() bool {
		return func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.groups[id(1)] == group
		}
	}
	until(t, "the group of an attached volume", says("shop"))
	mustMove(t, f, 1, "bank")
	until(t, "the group that it moved to", says("bank"))
	mustDetach(t, f, 1)
	mustMove(t, f, 1, "mall")
	until(t, "the group that a detached volume moved to", says("mall"))
	closeFleet(t, f)
	c.mu.Lock()
	c.groups[id(1)] = "shop" // a controller that did not live to say it
	c.mu.Unlock()
	c.db = c.db.Clone()
	f = c.open()
	defer closeFleet(t, f)
	until(t, "the next controller to say it", says("mall"))
}
