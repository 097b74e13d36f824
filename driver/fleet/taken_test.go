package fleet_test

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// A site that does not know yet that the other one has failed over moves a volume to
// another group. When they see each other again the volume stays the new primary's, and
// the old one gives it up.
func TestAVolumeIsNotTakenFromANewerPrimary(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	replicated(t, a, fa, fb, 2)
	toA, toB := b.peers["a"], a.peers["b"]
	link := func(there, here fleet.Peer) {
		t.Helper()
		a.setPeer("b", there)
		b.setPeer("a", here)
		if err := errors.Join(fa.PeerChanged(bounded(t), "b"), fb.PeerChanged(bounded(t), "a")); err != nil {
			t.Fatal(err)
		}
	}
	link(fleet.Peer{}, fleet.Peer{})
	out, err := fb.Groups().Failover(bounded(t), "shop", "latest", false)
	if err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fb, 1, "node9")
	write(t, b.device(id(1)), 7)
	settings := newVolume(1, "other").Settings
	settings.ReplicateTo = "b"
	if err := fa.MoveVolume(bounded(t), id(1), "other", settings); err != nil {
		t.Fatal(err)
	}

	link(toB, fleet.Peer{}) // the old primary is the first to speak
	until(t, "the old primary to be refused", func() bool {
		s, err := fa.Groups().Summary(bounded(t), "other")
		return err == nil && s.Sending != nil && errors.Is(s.Sending.LastError, replication.ErrSplitBrain)
	})
	expectMembers(t, fb, "shop", 1, 2)
	if v, err := fb.Volume(id(1)); err != nil || v.Group != "shop" || fb.IsReplica(id(1)) {
		t.Fatalf("volume %+v, %v", v, err)
	}
	write(t, b.device(id(1)), 8)
	link(toB, toA)
	until(t, "the old primary to follow with both", func() bool {
		st, err := fa.Groups().State("shop")
		return err == nil && st.Role == group.RoleReplica && st.Term == out.Term && fa.IsReplica(id(1))
	})
	until(t, "the group that the volume was moved to to end", func() bool {
		_, err := fa.Groups().State("other")
		return errors.Is(err, group.ErrNotFound)
	})
	if err := a.device(id(1)).WriteAt(ctx, make([]byte, 512), 0, false); err == nil {
		t.Error("the old primary takes writes")
	}
	mustDetach(t, fa, 1)
	mustDetach(t, fa, 2)
	write(t, b.device(id(1)), 9)
	p := takePoint(t, fb, "shop")
	until(t, "the old primary to hold a point of the new one", func() bool {
		points, err := fa.Groups().Points(bounded(t), "shop")
		return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= p.Checkpoint
	})
}

// A site that does not know yet that the other one has failed over raises no term by a
// move, in either direction: the new primary would give way to it when they meet.
func TestAMoveRaisesNoTermOverANewerPrimary(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	replicated(t, a, fa, fb, 1)
	for n, name := range map[byte]string{2: "bank", 3: "till"} {
		v := newVolume(n, name)
		v.Settings.ReplicateTo = "b"
		mustCreate(t, fa, v)
		mustAttach(t, fa, n, "node1")
		write(t, a.device(id(n)), n)
	}
	// As one that was failed over and back.
	const high = 5
	if err := fa.Groups().Standings().Demote(bounded(t), "bank", high, "a"); !errors.Is(err, replication.ErrOwnTerm) {
		t.Fatal(err)
	}
	known := func(name string, term group.Term) func() bool {
		return func() bool {
			st, err := fb.Groups().State(name)
			return err == nil && st.Term == term && st.Role == group.RoleReplica
		}
	}
	until(t, "the peer to know the groups", func() bool { return known("bank", high)() && known("till", 1)() })
	toA, toB := b.peers["a"], a.peers["b"]
	link := func(there, here fleet.Peer) {
		t.Helper()
		a.setPeer("b", there)
		b.setPeer("a", here)
		if err := errors.Join(fa.PeerChanged(bounded(t), "b"), fb.PeerChanged(bounded(t), "a")); err != nil {
			t.Fatal(err)
		}
	}
	link(fleet.Peer{}, fleet.Peer{})
	out, err := fb.Groups().Failover(bounded(t), "shop", "latest", false)
	if err != nil || out.Term >= high {
		t.Fatalf("failover %+v, %v", out, err)
	}
	for n, to := range map[byte]string{1: "bank", 2: "shop"} {
		if err := fa.MoveVolume(bounded(t), id(n), to, group.Settings{}); !errors.Is(err, groups.ErrUnconfirmed) {
			t.Errorf("move of volume %d to group %s: %v, want ErrUnconfirmed", n, to, err)
		}
	}
	expectMembers(t, fa, "shop", 1)
	expectMembers(t, fa, "bank", 2)
	link(toB, toA)
	until(t, "the old primary to follow", func() bool {
		st, err := fa.Groups().State("shop")
		return err == nil && st.Role == group.RoleReplica && st.Term == out.Term
	})
	if st, err := fb.Groups().State("shop"); err != nil || st.Role != group.RolePrimary || st.Term != out.Term {
		t.Errorf("the new primary has become %+v, %v", st, err)
	}
	mustMove(t, fa, 3, "bank") // which the peer has answered for
	until(t, "the peer to know of the move", func() bool {
		st, err := fb.Groups().State("bank")
		return err == nil && len(st.Members) == 2 && st.Term == high
	})
}
