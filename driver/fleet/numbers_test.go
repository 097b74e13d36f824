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

// A group that is made anew under the name of one of which a deleted volume is kept for a snapshot:
// the newest of the points of both is the one with the highest number, also while nobody can ask
// what is kept.
func TestNumbersGoOnInAGroupOfACluster(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	var before journal.CheckpointNumber
	for range 5 {
		before = takePoint(t, f, "shop").Checkpoint
	}
	if _, _, err := f.PinPoint(bounded(t), "shop", "snap", ""); err != nil {
		t.Fatal(err)
	}
	mustDetach(t, f, 1)
	if err := f.RetireVolume(bounded(t), id(1)); err != nil {
		t.Fatal(err)
	}
	until(t, "no engine to be left", func() bool { return c.node(id(1)) == "" })
	mustCreate(t, f, newVolume(2, "shop"))
	mustAttach(t, f, 2, "node1")
	p := takePoint(t, f, "shop")
	if p.Checkpoint <= before {
		t.Errorf("checkpoint %d, want more than %d", p.Checkpoint, before)
	}
	release, err := f.Wake(bounded(t), "shop", true)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if latest, err := f.Groups().Select(bounded(t), "shop", "latest"); err != nil || len(latest.Members) != 1 || latest.Members[id(2)] == (journal.Position{}) {
		t.Errorf("the latest point is %d of %v, %v; want one of the volume that is there", latest.Checkpoint, latest.Members, err)
	}
}
