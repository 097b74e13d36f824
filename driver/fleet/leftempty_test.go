package fleet_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// severable has the engines of a site that are not connected to its peer yet not get there while what
// is returned is true.
func severable(a *cluster) *atomic.Bool {
	cut, dial := new(atomic.Bool), a.dialPeer
	a.dialPeer = func(site, address string) (*grpc.ClientConn, error) {
		if !cut.Load() {
			return dial(site, address)
		}
		return grpc.NewClient("passthrough:"+site, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("the link is cut") }))
	}
	return cut
}

// A volume that was deleted at the primary before anything of it had arrived at the replica is
// known there, and there is nothing of it: no engine serves it, and nobody waits for one.
func TestAVolumeThatLeftBeforeItArrivedKeepsNobodyFromThePast(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	cut := severable(a)
	replicated(t, a, fa, fb, 1)
	cut.Store(true) // for engines that are not connected yet
	v := newVolume(2, "shop")
	v.Settings.ReplicateTo = "b"
	mustCreate(t, fa, v)
	until(t, "the replica's engine to have its orders", func() bool {
		v, err := fb.Volume(id(2))
		return err == nil && v.Connected && v.State.Term != 0
	})
	if err := deleteVolume(t, fa, 2); err != nil {
		t.Fatal(err)
	}
	until(t, "the replica to know that it is gone", func() bool {
		v, err := fb.Volume(id(2))
		return err == nil && v.Retired
	})
	past := func(role string) {
		t.Helper()
		release, err := fb.Wake(bounded(t), "shop", true)
		if err != nil {
			t.Fatalf("the past of a %s: %v", role, err)
		}
		release()
		if err := fb.UnpinPoint(bounded(t), "shop", "none"); err != nil {
			t.Fatalf("end of a snapshot at a %s: %v", role, err)
		}
		if v, err := fb.Volume(id(2)); err != nil || v.State.Store != nil {
			t.Fatalf("at a %s it has a store: %+v, %v", role, v.State.Store, err)
		}
	}
	past("replica")
	mustDetach(t, fa, 1)
	if _, err := fb.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	past("primary")
	mustAttach(t, fb, 1, "node9")
	expect(t, b.device(id(1)), 1)
	if _, _, err := fb.PinPoint(bounded(t), "shop", "snap", "latest"); err != nil {
		t.Fatal(err)
	}
}
