package fleet_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
)

// fencedBelow is the lowest term whose records a volume's engine takes.
func (c *cluster) fencedBelow(n byte) uint64 {
	c.mu.Lock()
	p := c.engines[id(n)]
	c.mu.Unlock()
	if p == nil {
		return 0
	}
	state, _ := p.pod.State()
	return state.FencedBelow
}

// An engine that comes back with the fence of a failover that was given up has that taken back, and
// not the fence of the next one, which may begin at that moment.
func TestAFenceThatWasGivenUpIsLiftedAlone(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	first := group.State{Name: "shop", Settings: group.Settings{}.WithDefaults()}
	if err := f.Groups().Standings().Follow(bounded(t), "b", announced(t, first, 1, 1)); err != nil {
		t.Fatal(err)
	}
	until(t, "the engine", func() bool { v, err := f.Volume(id(1)); return err == nil && v.Connected && v.State.Term == 1 })
	if _, err := f.Groups().Failover(bounded(t), "shop", "latest", false); !errors.Is(err, group.ErrNoPoint) {
		t.Fatalf("failover with nothing to fail over to: %v", err)
	}
	// What took its fence back did not reach the engine, which ends.
	c.mu.Lock()
	pod := c.engines[id(1)].pod
	c.mu.Unlock()
	if err := pod.Fence(bounded(t), 2); err != nil {
		t.Fatal(err)
	}
	fenced := make(chan func(), 1)
	var once sync.Once
	begin := func() {
		once.Do(func() {
			term, release, err := fleet.FencerOf(f).Fence(bounded(t), "shop")
			if err != nil || term != 3 {
				t.Errorf("fence at term %d, %v", term, err)
				release = func() {}
			}
			fenced <- release
		})
	}
	c.viewing.Store(&begin)
	c.kill(id(1))
	release := <-fenced
	defer release()
	c.viewing.Store(nil)
	unlock, err := fleet.LockGroup(bounded(t), f, "shop") // behind whoever greets the engine
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if below := c.fencedBelow(1); below != 3 {
		t.Errorf("the engine takes records of term %d, in the midst of a failover at term 3", below)
	}
}
