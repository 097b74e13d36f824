package enginepod_test

import (
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// A member of a replica keeps all that it has until it is told what is the newest point
// that all have, and then that; a member of a primary keeps nothing, whoever asks late.
func TestAMemberOfAReplicaKeepsWhatItIsTold(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	r.order(r.primary(1, 1))
	write(t, r.engine(), 0, 1)
	kept := func() journal.Position { return r.engine().Store().KeptPoint() }
	tell := func(at journal.Position) {
		t.Helper()
		if err := r.client.KeepPoint(ctx, at, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, at journal.Position) {
		t.Helper()
		if got := kept(); got != at {
			t.Errorf("%s: %v is kept, want %v", when, got, at)
		}
	}
	tip := r.engine().Store().Tip()
	tell(tip)
	want("a primary", journal.Position{})

	replica := r.primary(2, 2)
	replica.Role, replica.Writable = control.Replica, false
	r.order(replica)
	all := r.engine().Store().Horizon()
	want("demoted", all)
	tell(journal.Position{})
	want("told that nothing is known", all)
	tell(tip)
	want("told", tip)
	tell(journal.Position{})
	want("told that nothing is known any more", tip)
	r.engine().Store().KeepPoint(journal.Position{}, 0) // as it does for want of room
	replica.Revision++
	r.order(replica)
	want("ordered again", journal.Position{})
	tell(tip)
	r.stop()
	r.start()
	r.resumed(3)
	want("started", all)
	tell(tip)

	r.order(r.primary(3, 3))
	want("promoted", journal.Position{})
	tell(tip)
	want("told late", journal.Position{})
	if err := r.client.KeepPoint(ctx, tip, 0); err == nil {
		t.Error("a point is kept for no time")
	}
}
