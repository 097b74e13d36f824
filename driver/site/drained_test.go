package site_test

import (
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// TestNumbersRiseOverADrain: stores that were drained (lockstep journal drain) know of no
// checkpoint any more. A replica does: to it a lower number is an older point, and a
// failover to the latest would be one to what was there before the drain.
func TestNumbersRiseOverADrain(t *testing.T) {
	fs := vfs.NewMem()
	s := prepared(t, fs)
	var before journal.CheckpointNumber
	for range 5 {
		before = s.take(t).Checkpoint
	}
	mustClose(t, s)
	for i, id := range members {
		drain(t, fs, id)
		s = mustOpen(t, fs)
		p := s.take(t)
		if p.Checkpoint <= before {
			t.Errorf("checkpoint %d once %d members were drained, want more than %d", p.Checkpoint, i+1, before)
		}
		if i == 0 && p.Checkpoint != before+1 { // the other one knew
			t.Errorf("checkpoint %d, want %d", p.Checkpoint, before+1)
		}
		before = p.Checkpoint
		s.expect(t, 2)
		mustClose(t, s)
		if i == 0 { // it has a checkpoint again, and is to have none
			drain(t, fs, id)
		}
	}
}

// drain drains the store of a volume of a site that is not open, as lockstep journal drain does.
func drain(t *testing.T, fs vfs.FS, id journal.VolumeID) {
	t.Helper()
	store, err := journal.Open(journal.Config{FS: fs, Dir: "/root/volumes/" + id.String() + "/store-1", SegmentBytes: journal.MinSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.Drain(t.Context(), true), store.Close()); err != nil {
		t.Fatal(err)
	}
}

// A volume that was deleted, and is kept for a snapshot, knows of the checkpoints until then, and
// not of those that its group has taken since.
func TestNumbersRiseOverADrainBesideADeletedVolume(t *testing.T) {
	fs := vfs.NewMem()
	s := prepared(t, fs)
	if err := s.RetireVolume(t.Context(), volumeB); err != nil {
		t.Fatal(err)
	}
	var before journal.CheckpointNumber
	for range 5 {
		before = s.take(t).Checkpoint
	}
	mustClose(t, s)
	drain(t, fs, volumeA)
	s = mustOpen(t, fs)
	defer mustClose(t, s)
	if p := s.take(t); p.Checkpoint <= before {
		t.Errorf("checkpoint %d once the member was drained, want more than %d", p.Checkpoint, before)
	}
}

// A group may take ten checkpoints a second, and those that somebody asks for, and be drained
// again.
func TestNumbersRiseOverASecondDrain(t *testing.T) {
	fs, now := vfs.NewMem(), clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	s := openAt(t, fs, now)
	for _, id := range members {
		if err := s.create(id, nil); err != nil {
			t.Fatal(err)
		}
	}
	var before journal.CheckpointNumber
	for i := range 3 {
		for range 20 {
			if p := s.take(t); p.Checkpoint <= before {
				t.Fatalf("checkpoint %d behind drain %d, want more than %d", p.Checkpoint, i, before)
			} else {
				before = p.Checkpoint
			}
		}
		mustClose(t, s)
		for _, id := range members {
			drain(t, fs, id)
		}
		now.Advance(time.Second)
		s = openAt(t, fs, now)
	}
	mustClose(t, s)
}
