package fleet_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// followed begins a replica of two members, both at term 1.
func followed(t *testing.T) (*cluster, *fleet.Fleet) {
	t.Helper()
	c := newCluster(t)
	f := c.open()
	t.Cleanup(func() { closeFleet(t, f) })
	first := group.State{Name: "shop", Settings: group.Settings{}.WithDefaults()}
	if err := f.Groups().Standings().Follow(bounded(t), "b", announced(t, first, 1, 1, 2)); err != nil {
		t.Fatal(err)
	}
	for n := byte(1); n <= 2; n++ {
		until(t, "the engine", func() bool { v, err := f.Volume(id(n)); return err == nil && v.Connected && v.State.Term == 1 })
	}
	return c, f
}

// termOf is the term of the orders that a volume's engine has carried out.
func (c *cluster) termOf(n byte) uint64 {
	c.mu.Lock()
	p := c.engines[id(n)]
	c.mu.Unlock()
	state, _ := p.pod.State()
	return state.Term
}

// A primary whose controller ends, or that is cut off, in the midst of the announcement of a
// new term says the same again, which is nothing new to the site by then: its engines are told
// of the term all the same. Until they are, they take nothing from that primary.
func TestEnginesAreToldOfATermThatWasAnnouncedInPart(t *testing.T) {
	for k := 1; ; k++ {
		c, f := followed(t)
		second := group.State{Name: "shop", Settings: group.Settings{}.WithDefaults()}
		a := announced(t, second, 2, 1, 2)
		ctx, cancel := context.WithCancel(bounded(t))
		commits := 0
		c.db.SetHooks(kv.Hooks{AfterCommit: func() error {
			if commits++; commits == k {
				cancel()
			}
			return nil
		}})
		err := f.Groups().Standings().Follow(ctx, "b", a)
		c.db.SetHooks(kv.Hooks{})
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("given up at commit %d: %v", k, err)
		}
		if err := f.Groups().Standings().Follow(bounded(t), "b", a); err != nil {
			t.Fatal(err)
		}
		for n := byte(1); n <= 2; n++ {
			until(t, "the engine to be told", func() bool { return c.termOf(n) == 2 })
		}
		if commits < k {
			if k == 1 {
				t.Error("an announcement makes no commit: nothing was tested")
			}
			return
		}
	}
}

// A fence of a failover that was given up reaches an engine when it has been taken back. It does
// not stay: the engine would take nothing from its primary for as long as it runs.
func TestAFenceThatComesLateIsLifted(t *testing.T) {
	c, f := followed(t)
	if _, err := f.Groups().Failover(bounded(t), "shop", "latest", false); !errors.Is(err, group.ErrNoPoint) {
		t.Fatalf("failover with nothing to fail over to: %v", err)
	}
	c.mu.Lock()
	pod := c.engines[id(2)].pod
	c.mu.Unlock()
	if err := pod.Fence(bounded(t), 2); err != nil {
		t.Fatal(err)
	}
	until(t, "the fence to be lifted", func() bool { return c.fencedBelow(2) <= 1 })
}
