package enginepod_test

import (
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// An engine counts its points by tier, and not at each look: that goes through all of
// them.
func TestPointsAreCounted(t *testing.T) {
	now := clock.NewManual(time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC))
	r := newRig(t, newNetwork(), 1)
	r.stop()
	r.clock = now
	r.start()
	o := r.primary(1, 1)
	o.History, o.Window = "1s:1m,1m:1h", time.Hour
	expect := func(when string, s control.State, want ...int) {
		t.Helper()
		if s.Store == nil || len(s.Store.Points) != len(want) {
			t.Fatalf("%s: %+v, want %d tiers", when, s.Store, len(want))
		}
		for i, n := range want {
			if s.Store.Points[i].Points != n {
				t.Errorf("%s: tier %d has %d points, want %d", when, i, s.Store.Points[i].Points, n)
			}
		}
	}
	take := func(number journal.CheckpointNumber, group string) {
		t.Helper()
		_, err := r.engine().Store().Checkpoint(journal.Checkpoint{Number: number, Time: now.Now(),
			CheckpointInfo: journal.CheckpointInfo{Group: group, Members: []journal.VolumeID{r.id}}})
		if err == nil {
			err = r.engine().Flush(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("without a point", r.order(o), 0, 0)
	take(1, "shop")
	take(2, "bank")
	expect("at once", r.order(o), 0, 0)
	now.Advance(5 * time.Second)
	expect("later", r.order(o), 1, 0)
	now.Advance(time.Minute)
	take(3, "shop")
	s := r.order(o)
	expect("older", s, 1, 1)
	if got := s.Store.Points[1]; got.Interval != time.Minute || got.Age != time.Hour || !got.Oldest.Equal(now.Now().Add(-65*time.Second)) {
		t.Errorf("the second tier is %+v", got)
	}
	o.Revision, o.History = 2, ""
	expect("with other settings", r.order(o), 2)
}

// A backing volume that is too small for the volume and its journal is known before it
// is full.
func TestABackingVolumeThatIsTooSmallIsTold(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	o := r.primary(1, 1)
	o.JournalBytes = 64 << 20
	if s := r.order(o); s.Store.ShortByBytes != 0 {
		t.Errorf("with room it is short by %d bytes", s.Store.ShortByBytes)
	}
	r.fs.SetCapacity(volumeBytes + 48<<20)
	o.Revision = 2
	if s := r.order(o); s.Store.ShortByBytes != 16<<20 {
		t.Errorf("it is short by %d bytes, want %d", s.Store.ShortByBytes, 16<<20)
	}
	o.Revision, o.JournalBytes = 3, 48<<20
	if s := r.order(o); s.Store.ShortByBytes != 0 {
		t.Errorf("with a smaller budget it is short by %d bytes", s.Store.ShortByBytes)
	}
}
