package fleet_test

import (
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// setBudget gives a group another journal budget, as a VolumeAttributesClass or
// a ConsistencyGroup does: both try again while an engine is on its way out.
func setBudget(t *testing.T, f *fleet.Fleet, name string, to int64) {
	t.Helper()
	st, err := f.Groups().State(name)
	if err != nil {
		t.Fatal(err)
	}
	settings := st.Settings
	settings.JournalBytes = to
	until(t, "the group to take the budget", func() bool { return f.Groups().Modify(bounded(t), name, settings) == nil })
}

// room is the budget that a backing volume was last expanded for, and how often
// that was asked for.
func (c *cluster) room(n byte) (budget int64, tries int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rooms[id(n)], c.tries
}

// A volume whose journal is beside its base has its backing volume grow with the
// budget, attached or at rest, and not only when the volume itself grows.
func TestABackingVolumeGrowsWithTheBudget(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	v := newVolume(1, "shop")
	v.Settings.JournalBytes = 1 << 30
	mustCreate(t, f, v)
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 1)
	if _, tries := c.room(1); tries != 0 {
		t.Errorf("%d expansions before anything grew", tries)
	}
	setBudget(t, f, "shop", 2<<30)
	until(t, "the room to grow", func() bool { budget, _ := c.room(1); return budget == 2<<30 })
	until(t, "the budget", func() bool { return c.budget(id(1)) == 2<<30 })

	mustDetach(t, f, 1)
	until(t, "the engine to be gone", func() bool { return c.node(id(1)) == "" })
	c.mu.Lock()
	c.refusals = 1 // the storage is full for a moment
	c.mu.Unlock()
	setBudget(t, f, "shop", 3<<30)
	closeFleet(t, f)
	f = c.open() // another controller goes on
	until(t, "the volume at rest to grow", func() bool { budget, _ := c.room(1); return budget == 3<<30 })

	_, before := c.room(1)
	setBudget(t, f, "shop", 1<<30)
	mustAttach(t, f, 1, "node2")
	until(t, "the smaller budget", func() bool { return c.budget(id(1)) == 1<<30 })
	if budget, tries := c.room(1); budget != 3<<30 || tries != before {
		t.Errorf("room for %d after %d expansions, want that it does not shrink", budget, tries-before)
	}
	if v, err := f.Volume(id(1)); err != nil || v.Trouble != nil {
		t.Errorf("trouble %v, %v", v.Trouble, err)
	}
}

// Storage that cannot grow is no trouble of a journal beside the base: it has the
// budget, and history is as long as there is room. It is asked once for each
// budget. A volume that is to grow itself is another matter.
func TestABackingVolumeThatCannotGrow(t *testing.T) {
	c := newCluster(t)
	c.rigid = true
	f := c.open()
	defer func() { closeFleet(t, f) }()
	v := newVolume(1, "shop")
	v.Settings.JournalBytes = 1 << 30
	mustCreate(t, f, v)
	mustAttach(t, f, 1, "node1")
	for i, budget := range []int64{2 << 30, 3 << 30} {
		setBudget(t, f, "shop", budget)
		until(t, "the budget", func() bool { return c.budget(id(1)) == budget })
		until(t, "the storage to be asked", func() bool { _, tries := c.room(1); return tries == i+1 })
	}
	setBudget(t, f, "shop", 3<<30) // whatever looks again
	if err := f.ExpandVolume(bounded(t), id(1), 2*volumeBytes); err == nil {
		t.Error("the volume has grown without its backing volume")
	}
	if _, tries := c.room(1); tries != 3 {
		t.Errorf("the storage was asked %d times, want once for each budget and once for the volume", tries)
	}
	if v, err := f.Volume(id(1)); err != nil || v.Trouble != nil {
		t.Errorf("trouble %v, %v", v.Trouble, err)
	}
}

// A budget that comes while an expansion for another one is under way is asked for as well,
// when that is refused.
func TestABudgetThatComesDuringARefusal(t *testing.T) {
	c := newCluster(t)
	c.rigid = true
	f := c.open()
	defer func() { closeFleet(t, f) }()
	v := newVolume(1, "shop")
	v.Settings.JournalBytes = 1 << 30
	mustCreate(t, f, v)
	mustAttach(t, f, 1, "node1")
	c.mu.Lock()
	c.meanwhile = func() { setBudget(t, f, "shop", 3<<30) }
	c.mu.Unlock()
	setBudget(t, f, "shop", 2<<30)
	until(t, "the storage to be asked for both", func() bool { _, tries := c.room(1); return tries == 2 })
}

// A volume that moves has its new group's budget.
func TestABackingVolumeGrowsWithTheBudgetOfANewGroup(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	for i, budget := range []int64{1 << 30, 2 << 30} {
		v := newVolume(byte(i+1), []string{"small", "big"}[i])
		v.Settings.JournalBytes = budget
		mustCreate(t, f, v)
	}
	st, err := f.Groups().State("big")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.MoveVolume(bounded(t), id(1), "big", st.Settings); err != nil {
		t.Fatal(err)
	}
	until(t, "the room to grow", func() bool { budget, _ := c.room(1); return budget == 2<<30 })
}
