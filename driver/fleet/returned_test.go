package fleet_test

import (
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/group"
)

// A snapshot that outlives one of its volumes is there also where a failover of a site that did
// not know of the deletion brings the volume back.
func TestASnapshotStaysWhereADeletedVolumeReturns(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	cut := severable(a)
	replicated(t, a, fa, fb, 1)
	cut.Store(true) // for engines that are not connected yet
	v := newVolume(2, "shop")
	v.Settings.ReplicateTo = "a" // as it will be behind the failover
	mustCreate(t, fa, v)
	until(t, "the replica to know the new member", func() bool {
		v, err := fb.Volume(id(2))
		return err == nil && v.Connected && v.State.Term != 0
	})
	b.shut.Store(true) // the deletion is not heard of
	write(t, a.device(id(1)), 3)
	point, _, err := fa.PinPoint(bounded(t), "shop", "snap", "")
	if err != nil || len(point.Members) != 2 {
		t.Fatalf("pinned %+v, %v", point, err)
	}
	mustDelete(t, fa, 2)
	mustDetach(t, fa, 1)
	a.shut.Store(true)
	b.shut.Store(false)
	out, err := fb.Groups().Failover(bounded(t), "shop", "latest", false)
	if err != nil {
		t.Fatal(err)
	}
	a.shut.Store(false)
	until(t, "site a to follow, with the volume", func() bool {
		st, err := fa.Groups().State("shop")
		return err == nil && st.Role == group.RoleReplica && st.Term == out.Term && slices.Contains(st.Members, id(2))
	})
	until(t, "the snapshot to be listed", func() bool {
		release, err := fa.Wake(bounded(t), "shop", true)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		points, err := fa.Groups().PinnedPoints(bounded(t), "shop")
		if err != nil {
			t.Fatal(err)
		}
		return len(points) == 1 && slices.Contains(points[0].Pins, "snap") && points[0].Checkpoint == point.Checkpoint
	})
	view, err := fa.OpenView(bounded(t), "shop", "pin:snap")
	if err != nil {
		t.Fatal(err)
	}
	if len(view.Members) != 1 || view.Members[0].Volume != id(1) {
		t.Errorf("view of %+v, want volume 1 alone", view.Members)
	}
	if err := fa.CloseView(bounded(t), view.ID); err != nil {
		t.Error(err)
	}
}
