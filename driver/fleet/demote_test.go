package fleet_test

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// announced is what a peer that was promoted at a term announces of a group that has changed
// in nothing else.
func announced(t *testing.T, st group.State, term group.Term, numbers ...byte) replication.Announcement {
	t.Helper()
	a := replication.Announcement{Group: st.Name, Term: term, Settings: st.Settings, NewestCheckpoint: st.LastCheckpoint}
	for _, n := range numbers {
		v := newVolume(n, st.Name)
		a.Members = append(a.Members, replication.Member{Volume: v.ID, Name: v.Name, SizeBytes: v.SizeBytes})
	}
	return a
}

// A site that learns of its successor from a refusal knows by then all that the successor
// announces. Its engines are to take that one's records all the same.
func TestEnginesOfADemotedSiteBecomeReplicas(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 1)
	st, err := f.Groups().State("shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Groups().Standings().Demote(bounded(t), "shop", st.Term+1, "b"); err != nil {
		t.Fatal(err)
	}
	if err := f.Groups().Standings().Follow(bounded(t), "b", announced(t, st, st.Term+1, 1)); err != nil {
		t.Fatal(err)
	}
	if v, err := f.Volume(id(1)); err != nil || v.State.Term != uint64(st.Term+1) || v.State.Device != "" {
		t.Errorf("engine has carried out orders of term %d, %v, and has device %q; want term %d and none", v.State.Term, err, v.State.Device, st.Term+1)
	}
}

// A group that is made anew takes up the term that an earlier one of its name had. Its engines
// do too: the peer refuses what they send at a lower one.
func TestEnginesOfAGroupThatIsMadeAgainTakeUpItsTerm(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	if err := f.Groups().Standings().Demote(bounded(t), "shop", 3, "a"); !errors.Is(err, replication.ErrOwnTerm) {
		t.Fatalf("a term of its own: %v, want ErrOwnTerm", err)
	}
	if v, err := f.Volume(id(1)); err != nil || v.State.Term != 3 || v.State.Device == "" {
		t.Errorf("engine has carried out orders of term %d, %v, and has device %q; want term 3 and its device", v.State.Term, err, v.State.Device)
	}
	write(t, c.device(id(1)), 1)
	takePoint(t, f, "shop")
}

// A member that is in use at a site that was the primary keeps no other one from being fed by
// the new one.
func TestADeviceInUseKeepsNoOtherMemberFromFollowing(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
		mustAttach(t, f, n+1, "node1")
	}
	takePoint(t, f, "shop")
	c.device(id(1)).busy = true
	st, err := f.Groups().State("shop")
	if err != nil {
		t.Fatal(err)
	}
	a := announced(t, st, st.Term+1, 1, 2)
	for err = f.Groups().Standings().Follow(bounded(t), "b", a); err != nil; err = f.Groups().Standings().Follow(bounded(t), "b", a) {
		if !errors.Is(err, control.ErrDeviceInUse) {
			t.Fatal(err)
		}
	}
	if v, err := f.Volume(id(2)); err != nil || v.State.Term != uint64(st.Term+1) || v.State.Device != "" {
		t.Errorf("engine has carried out orders of term %d, %v, and has device %q; want term %d and none", v.State.Term, err, v.State.Device, st.Term+1)
	}
}
