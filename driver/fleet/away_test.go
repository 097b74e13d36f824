package fleet_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
)

// joinInTurn makes two volumes of group shop, the second one behind a point of the first,
// and returns the point of both that the replica has.
func joinInTurn(t *testing.T, a *cluster, fa, fb *fleet.Fleet) (both group.Point) {
	t.Helper()
	for n := byte(1); n <= 2; n++ {
		v := newVolume(n, "shop")
		v.Settings.ReplicateTo = "b"
		mustCreate(t, fa, v)
		mustAttach(t, fa, n, "node1")
		write(t, a.device(id(n)), n)
		both = takePoint(t, fa, "shop")
		until(t, "the replica to hold the point", func() bool {
			p, err := fb.Groups().NewestPoint(bounded(t), "shop")
			return err == nil && p != nil && p.Checkpoint >= both.Checkpoint && len(p.Members) == int(n)
		})
	}
	return both
}

// A member whose engine goes away while a point is chosen may hold the newest one: no
// older one, of before it has joined, is taken for that.
func TestAMemberThatIsAwayIsNotLeftOutOfAChoice(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	both := joinInTurn(t, a, fa, fb)
	mustDetach(t, fa, 1)
	mustDetach(t, fa, 2)
	back := make(chan struct{})
	b.mu.Lock()
	b.run = func(ctx context.Context, spec fleet.EngineSpec) error {
		if spec.Volume == id(2) {
			select {
			case <-back:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	b.mu.Unlock()
	b.kill(id(2))
	until(t, "the engine to be away", func() bool {
		v, err := fb.Volume(id(2))
		return err == nil && !v.Connected
	})
	for _, at := range []string{"latest", time.Now().Format(time.RFC3339Nano), number(both)} {
		if out, err := fb.Groups().Failover(bounded(t), "shop", at, true); !errors.Is(err, group.ErrAway) {
			t.Errorf("at %s: point %+v, %v; want ErrAway", at, out.Point, err)
		}
	}
	close(back)
	release, err := fb.Wake(bounded(t), "shop", false)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	out, err := fb.Groups().Failover(bounded(t), "shop", "latest", true)
	if err != nil || len(out.Point.Members) != 2 {
		t.Errorf("with its engine back: point %+v, %v", out.Point, err)
	}
}

// A volume that has left its group, and of which nothing runs, holds its part of the
// group's older points: none of before it joined is taken for one of them.
func TestAVolumeThatHasLeftIsNotLeftOutOfAChoice(t *testing.T) {
	a, _, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	both := joinInTurn(t, a, fa, fb)
	mustMove(t, fa, 2, "other") // which is not replicated
	write(t, a.device(id(1)), 3)
	alone := takePoint(t, fa, "shop")
	until(t, "the replica to be without the volume, and its engine to end", func() bool {
		p, err := fb.Groups().NewestPoint(bounded(t), "shop")
		v, gone := fb.Volume(id(2))
		return err == nil && p != nil && p.Checkpoint >= alone.Checkpoint && gone == nil && v.Retired && !v.Connected
	})
	at := both.Time.Format(time.RFC3339Nano)
	if out, err := fb.Groups().Failover(bounded(t), "shop", at, true); !errors.Is(err, group.ErrAway) {
		t.Errorf("point %+v, %v; want ErrAway", out.Point, err)
	}
	// What it has no part of needs nobody to wait for it.
	if out, err := fb.Groups().Failover(bounded(t), "shop", "latest", true); err != nil || out.Point.Checkpoint < alone.Checkpoint {
		t.Errorf("latest: point %+v, %v", out.Point, err)
	}
	release, err := fb.Wake(bounded(t), "shop", true)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	out, err := fb.Groups().Failover(bounded(t), "shop", at, true)
	if err != nil || out.Point.Checkpoint != both.Checkpoint || len(out.Point.Members) != 2 {
		t.Errorf("with its engine there: point %+v, %v; want %d of two members", out.Point, err, both.Checkpoint)
	}
}
