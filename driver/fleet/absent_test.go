package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
)

// A member whose first image has not arrived is not there after a failover. It is no
// volume of zeroes, which its users would take for theirs, and which would take the
// place of what the old primary has.
func TestAMemberThatNeverArrivedIsNotMadeByAFailover(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	var cut atomic.Bool
	dial := a.dialPeer
	a.dialPeer = func(site, address string) (*grpc.ClientConn, error) {
		if !cut.Load() {
			return dial(site, address)
		}
		return grpc.NewClient("passthrough:"+site, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("the link is cut") }))
	}
	replicated(t, a, fa, fb, 1)
	cut.Store(true) // for engines that are not connected yet
	v := newVolume(2, "shop")
	v.Settings.ReplicateTo = "a" // as it will be behind the failover
	mustCreate(t, fa, v)
	mustAttach(t, fa, 2, "node1")
	write(t, a.device(id(2)), 2)
	takePoint(t, fa, "shop")
	until(t, "the replica to know the new member", func() bool {
		v, err := fb.Volume(id(2))
		st, gone := fb.Groups().State("shop")
		return err == nil && v.Connected && gone == nil && len(st.Members) == 2
	})

	// A snapshot that was taken when this site was the primary can go.
	if err := fb.UnpinPoint(bounded(t), "shop", "snap"); err != nil {
		t.Error(err)
	}
	out, err := fb.Groups().Failover(bounded(t), "shop", "latest", false)
	if err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fb, 1, "node9")
	expect(t, b.device(id(1)), 1)
	if device, err := fb.Attach(bounded(t), id(2), "node9", plain); !errors.Is(err, groups.ErrAbsent) {
		t.Fatalf("attached as %q with nothing of what was written: %v, want ErrAbsent", device, err)
	}
	if v, err := fb.Volume(id(2)); err != nil || !v.Absent || v.State.Store != nil {
		t.Errorf("volume %+v, %v", v, err)
	}
	until(t, "site a to be a replica", func() bool {
		st, err := fa.Groups().State("shop")
		return err == nil && st.Role == group.RoleReplica && st.Term == out.Term
	})
	cut.Store(false)
	mustDetach(t, fa, 1)
	mustDetach(t, fa, 2)
	// The group goes on without it, with all that is done to groups.
	write(t, b.device(id(1)), 3)
	if _, _, err := fb.PinPoint(bounded(t), "shop", "snap", ""); err != nil {
		t.Fatal(err)
	}
	if err := fb.UnpinPoint(bounded(t), "shop", "snap"); err != nil {
		t.Fatal(err)
	}
	if err := fb.Groups().Modify(bounded(t), "shop", v.Settings); err != nil {
		t.Fatal(err)
	}
	write(t, b.device(id(1)), 4)
	point := takePoint(t, fb, "shop")
	if len(point.Members) != 1 {
		t.Errorf("point of %v, want one of the member that is there", point.Members)
	}
	if _, err := fb.Groups().StartRewind(bounded(t), "shop", fmt.Sprint(point.Checkpoint), false); err != nil {
		t.Fatal(err)
	}
	if _, err := fb.Groups().CommitRewind(bounded(t), "shop", false); err != nil {
		t.Fatal(err)
	}
	write(t, b.device(id(1)), 5)
	back := takePoint(t, fb, "shop")
	until(t, "site a to hold a point of the new primary", func() bool {
		points, err := fa.Groups().Points(bounded(t), "shop")
		return err == nil && len(points) > 0 && points[len(points)-1].Checkpoint >= back.Checkpoint
	})
	mustDetach(t, fb, 1)
	if _, err := fa.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, fa, 1, "node1")
	mustAttach(t, fa, 2, "node1")
	expect(t, a.device(id(1)), 5)
	expect(t, a.device(id(2)), 2)
}
