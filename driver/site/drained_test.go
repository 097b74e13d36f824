package site_test

import (
	"testing"

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
		store, err := journal.Open(journal.Config{FS: fs, Dir: "/root/volumes/" + id.String() + "/store-1", SegmentBytes: journal.MinSegmentBytes})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Drain(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
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
			store, err := journal.Open(journal.Config{FS: fs, Dir: "/root/volumes/" + id.String() + "/store-1", SegmentBytes: journal.MinSegmentBytes})
			if err == nil {
				err = store.Drain(t.Context(), true)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
