package fleet_test

import (
	"errors"
	"path"
	"testing"

	"github.com/lockstep-csi/lockstep/journal"
)

// forget has a volume whose engine does not run lose its history, as one does that is written to
// for long without a checkpoint.
func (c *cluster) forget(id journal.VolumeID) {
	c.t.Helper()
	store, err := journal.Open(journal.Config{FS: c.backing[id], Dir: path.Join("/backing", "store-1"), SegmentBytes: journal.MinSegmentBytes})
	if err == nil {
		err = errors.Join(store.Drain(c.t.Context(), true), store.Close())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// A group that has taken no checkpoint for long, because one of its volumes did not open, goes on
// without that one when it is deleted. What the other one holds may know of no checkpoint any
// more then, and a replica does: to it a lower number is an older point.
func TestNumbersRiseWhereNoMemberKnowsACheckpoint(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	var before journal.CheckpointNumber
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
		mustAttach(t, f, n+1, "node1")
	}
	for range 5 {
		before = takePoint(t, f, "shop").Checkpoint
	}
	closeFleet(t, f)
	c.kill(id(1))
	c.forget(id(1))

	f = c.open()
	// The other one knows still: numbers go on.
	until(t, "a checkpoint", func() bool {
		p, _, err := f.Groups().TakePoint(bounded(t), "shop", "")
		if err == nil && p.Checkpoint > before+100 {
			t.Fatalf("checkpoint %d, want one soon behind %d", p.Checkpoint, before)
		}
		before = max(before, p.Checkpoint)
		return err == nil
	})
	mustDetach(t, f, 2)
	mustDelete(t, f, 2)
	closeFleet(t, f)
	c.kill(id(1))
	c.forget(id(1))

	f = c.open()
	defer closeFleet(t, f)
	until(t, "a checkpoint of the one that is left", func() bool {
		p, _, err := f.Groups().TakePoint(bounded(t), "shop", "")
		if err == nil && p.Checkpoint <= before {
			t.Fatalf("checkpoint %d, want more than %d", p.Checkpoint, before)
		}
		return err == nil
	})
}
