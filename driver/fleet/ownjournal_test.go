package fleet_test

import (
	"testing"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// budget is what a volume's engine was told to keep its journal within.
func (c *cluster) budget(id journal.VolumeID) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.engines[id]
	if p == nil {
		return 0
	}
	eng, err := p.pod.Engine()
	if err != nil {
		return 0
	}
	bytes := eng.Store().Retention().JournalBytes
	return bytes
}

// A larger budget comes to a journal's own backing volume first and to its
// engine behind that, attached or at rest.
func TestAJournalsOwnBackingVolumeGrowsBeforeItsBudget(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	v := newVolume(1, "shop")
	v.Backing.JournalClass, v.Settings.JournalBytes = "faster", 1<<30
	mustCreate(t, f, v)
	if got := c.journalRoom(id(1)); got != 1<<30 {
		t.Fatalf("the journal's volume is for %d", got)
	}
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 1)
	until(t, "the budget", func() bool { return c.budget(id(1)) == 1<<30 })
	c.mu.Lock()
	c.refusals = 1 << 20
	c.mu.Unlock()
	setBudget(t, f, "shop", 2<<30)
	until(t, "the trouble to be told", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Trouble != nil
	})
	if got := c.budget(id(1)); got != 1<<30 {
		t.Errorf("with no room for it the budget is %d", got)
	}
	closeFleet(t, f)
	c.mu.Lock()
	c.refusals = 0
	c.mu.Unlock()
	f = c.open() // another controller goes on
	until(t, "the budget to grow", func() bool { return c.journalRoom(id(1)) == 2<<30 && c.budget(id(1)) == 2<<30 })
	until(t, "the trouble to be over", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Trouble == nil
	})
	mustDetach(t, f, 1)
	until(t, "the engine to be gone", func() bool { return c.node(id(1)) == "" })
	setBudget(t, f, "shop", 3<<30)
	until(t, "the volume at rest to grow", func() bool { return c.journalRoom(id(1)) == 3<<30 })
	setBudget(t, f, "shop", 1<<30)
	mustAttach(t, f, 1, "node2")
	until(t, "the smaller budget", func() bool { return c.budget(id(1)) == 1<<30 })
	if got := c.journalRoom(id(1)); got != 3<<30 {
		t.Errorf("the journal's volume is for %d, want that it does not shrink", got)
	}
}

// A replica's classes are its own site's.
func TestAReplicasJournalIsWhereItsSiteWants(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	b.journalClass = "faster"
	replicated(t, a, fa, fb, 1)
	if got := a.journalRoom(id(1)); got != 0 {
		t.Errorf("the primary has a journal's volume for %d", got)
	}
	if got := b.journalRoom(id(1)); got != journal.DefaultBudget(volumeBytes) {
		t.Errorf("the replica's journal's volume is for %d", got)
	}
	if _, err := fb.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fb, 1, "node9")
	write(t, b.device(id(1)), 9)
	expect(t, b.device(id(1)), 9)
	if st, err := fb.Groups().State("shop"); err != nil || st.Role != group.RolePrimary {
		t.Errorf("state %+v, %v", st, err)
	}
}
