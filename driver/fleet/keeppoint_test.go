package fleet_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/journal"
)

// kept is what a volume's engine keeps as the newest point of its group.
func (c *cluster) kept(t *testing.T, id journal.VolumeID) journal.Position {
	t.Helper()
	c.mu.Lock()
	p := c.engines[id]
	c.mu.Unlock()
	eng, err := p.pod.Engine()
	if err != nil {
		t.Fatal(err)
	}
	return eng.Store().KeptPoint()
}

// The members of a replica keep the newest point that all of them have, one after the
// other, and none once they are a primary's.
func TestReplicasAreToldWhatToKeep(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	for n := byte(1); n <= 2; n++ {
		v := newVolume(n, "shop")
		v.Settings.ReplicateTo = "b"
		mustCreate(t, fa, v)
		mustAttach(t, fa, n, "node1")
	}
	for i := range byte(2) {
		for n := byte(1); n <= 2; n++ {
			write(t, a.device(id(n)), i+1)
		}
		taken := takePoint(t, fa, "shop")
		until(t, "both members to keep the point", func() bool {
			newest, err := fb.Groups().NewestPoint(bounded(t), "shop")
			if err != nil || newest == nil || newest.Checkpoint < taken.Checkpoint {
				return false
			}
			return b.kept(t, id(1)) == newest.Members[id(1)] && b.kept(t, id(2)) == newest.Members[id(2)]
		})
	}
	if at := a.kept(t, id(1)); at != (journal.Position{}) {
		t.Errorf("the primary keeps %v", at)
	}
	if _, err := fb.Groups().Failover(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	for n := byte(1); n <= 2; n++ {
		until(t, "the new primary to keep nothing", func() bool { return b.kept(t, id(n)) == journal.Position{} })
	}
}

// A member that does not answer may hold the newest point. The others do not take an older
// one, of before it has joined, for that.
func TestAMemberThatIsAwayCostsNoPoint(t *testing.T) {
	a, b, fa, fb := newPair(t)
	defer closeFleet(t, fa)
	var newest journal.Position
	for n := byte(1); n <= 2; n++ {
		v := newVolume(n, "shop")
		v.Settings.ReplicateTo = "b"
		mustCreate(t, fa, v)
		mustAttach(t, fa, n, "node1")
		write(t, a.device(id(n)), n)
		taken := takePoint(t, fa, "shop")
		until(t, "the replica to keep the point", func() bool {
			p, err := fb.Groups().NewestPoint(bounded(t), "shop")
			if err != nil || p == nil || p.Checkpoint < taken.Checkpoint || len(p.Members) != int(n) {
				return false
			}
			newest = p.Members[id(1)]
			return b.kept(t, id(1)) == newest
		})
	}
	mustDetach(t, fa, 1)
	mustDetach(t, fa, 2)
	b.mu.Lock()
	b.run = func(_ context.Context, spec fleet.EngineSpec) error {
		if spec.Volume == id(2) {
			return errors.New("its node is away")
		}
		return nil
	}
	b.mu.Unlock()
	b.kill(id(2))
	until(t, "the engine to be away", func() bool {
		v, err := fb.Volume(id(2))
		return err == nil && !v.Connected
	})
	if err := fleet.KeepPointOf(fb, "shop"); err != nil {
		t.Fatal(err)
	}
	if got := b.kept(t, id(1)); got != newest {
		t.Errorf("the other member keeps %s, want %s of the newest point", got, newest)
	}
}
