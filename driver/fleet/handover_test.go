package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// made returns what an engine was made of.
func (c *cluster) made(id journal.VolumeID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.engines[id]; p != nil {
		return p.made
	}
	return ""
}

// upgraded reports whether engines are made of the present template.
func (c *cluster) upgraded(volumes ...byte) bool {
	for _, n := range volumes {
		if template, _, _ := c.Template(); c.made(id(n)) != template {
			return false
		}
	}
	return true
}

func (c *cluster) setTemplate(template string, manual bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.template, c.manual = template, manual
}

func (c *cluster) handovers() []journal.VolumeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.handed)
}

// fleetOfThree has three attached volumes with engines of the template "old".
func fleetOfThree(t *testing.T) (*cluster, *fleet.Fleet) {
	c := newCluster(t)
	c.template = "old"
	f := c.open()
	t.Cleanup(func() { closeFleet(t, f) })
	for n := range byte(3) {
		mustCreate(t, f, newVolume(n+1, fmt.Sprint("g", n)))
		mustAttach(t, f, n+1, "node1")
		write(t, c.device(id(n+1)), n)
	}
	return c, f
}

func TestANewTemplateReachesOneEngineAfterTheOther(t *testing.T) {
	c, f := fleetOfThree(t)
	var away atomic.Int32
	c.handOver = func(_ context.Context, spec fleet.EngineSpec) error {
		for n := range byte(3) {
			if v, err := f.Volume(id(n + 1)); err != nil || !v.Connected {
				away.Add(1)
			}
		}
		return nil
	}
	c.setTemplate("new", false)
	until(t, "all engines to be of the new template", func() bool { return c.upgraded(1, 2, 3) })
	until(t, "all engines to answer", func() bool {
		for n := range byte(3) {
			if v, err := f.Volume(id(n + 1)); err != nil || !v.Connected || v.State.Device == "" {
				return false
			}
		}
		return true
	})
	if got := away.Load(); got != 0 {
		t.Errorf("%d times an engine was handed over while another one was away", got)
	}
	if got := c.handovers(); len(got) != 3 {
		t.Errorf("handovers of %v, want one for each volume", got)
	}
	for n := range byte(3) {
		expect(t, c.device(id(n+1)), n)
	}
}

func TestEnginesAreLeftAloneWhereThatIsSaid(t *testing.T) {
	c, _ := fleetOfThree(t)
	asked := make(chan journal.VolumeID, 100)
	c.handOver = func(_ context.Context, spec fleet.EngineSpec) error {
		if spec.Volume == id(1) {
			asked <- spec.Volume
			return fmt.Errorf("by its annotation: %w", fleet.ErrHeld)
		}
		return nil
	}
	c.setTemplate("newer", true)
	c.setTemplate("new", false)
	until(t, "the others to be upgraded", func() bool { return c.upgraded(2, 3) })
	if <-asked; c.made(id(1)) != "old" {
		t.Error("an engine that is held was upgraded")
	}
	if got := c.handovers(); slices.Contains(got, id(1)) || len(got) != 2 {
		t.Errorf("handovers of %v", got)
	}
}

func TestWhatAnOperationUsesIsNotUpgraded(t *testing.T) {
	c, f := fleetOfThree(t)
	release, err := f.Wake(bounded(t), "g0", false)
	if err != nil {
		t.Fatal(err)
	}
	c.setTemplate("new", false)
	until(t, "the others to be upgraded", func() bool { return c.upgraded(2, 3) })
	if c.upgraded(1) {
		t.Error("an engine in use was upgraded")
	}
	release()
	until(t, "the last one to be upgraded", func() bool { return c.upgraded(1) })
}

func TestManualUpgradesAreNotBegun(t *testing.T) {
	c, f := fleetOfThree(t)
	c.setTemplate("new", true)
	// An engine that is started for another reason is of the new one.
	mustDetach(t, f, 1)
	until(t, "the engine to be stopped", func() bool { return c.node(id(1)) == "" })
	mustAttach(t, f, 1, "node2")
	if !c.upgraded(1) || c.upgraded(2) || c.upgraded(3) || len(c.handovers()) != 0 {
		t.Errorf("engines are of %q, %q, %q, handovers %v", c.made(id(1)), c.made(id(2)), c.made(id(3)), c.handovers())
	}
}

func TestAnUpgradeThatFailsIsNotTriedOnTheOthers(t *testing.T) {
	c, f := fleetOfThree(t)
	var tries atomic.Int32
	failed := make(chan struct{}, 100)
	c.handOver = func(context.Context, fleet.EngineSpec) error {
		tries.Add(1)
		failed <- struct{}{}
		return errors.New("no such image")
	}
	c.setTemplate("new", false)
	<-failed
	takePoint(t, f, "g1") // the engines go on
	for range 3 {
		mustDetach(t, f, 3) // and so does whoever tends them
		mustAttach(t, f, 3, "node1")
	}
	if got := tries.Load(); got != 1 || c.upgraded(1) || c.upgraded(2) || c.upgraded(3) {
		t.Errorf("%d tries, want that the first one ended it", got)
	}
}

// An engine that was told to end has a successor made, whoever told it.
func TestAnEngineThatLeavesIsHandedOver(t *testing.T) {
	c, f := fleetOfThree(t)
	c.mu.Lock()
	pod := c.engines[id(2)].pod
	c.mu.Unlock()
	pod.Leave()
	until(t, "a handover", func() bool { return slices.Equal(c.handovers(), []journal.VolumeID{id(2)}) })
	until(t, "the successor to answer", func() bool {
		v, err := f.Volume(id(2))
		return err == nil && v.Connected && v.State.Device != "" && !v.State.Leaving
	})
	expect(t, c.device(id(2)), 1)
}

// A handover that hangs, for want of an image for example, is given up for what
// concerns the engine otherwise. That is no failure: upgrades go on.
func TestAHandoverIsGivenUpForADetach(t *testing.T) {
	c, f := fleetOfThree(t)
	begun := make(chan struct{}, 1)
	var times atomic.Int32
	c.handOver = func(ctx context.Context, _ fleet.EngineSpec) error {
		if times.Add(1) > 1 {
			return nil
		}
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	c.setTemplate("new", false)
	<-begun
	mustDetach(t, f, 1)
	mustAttach(t, f, 1, "node2")
	until(t, "all engines to be of the new template", func() bool { return c.upgraded(1, 2, 3) })
	until(t, "the device of the volume that moved", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Connected && v.State.Device != ""
	})
	expect(t, c.device(id(1)), 0)
}

// That an engine is to be upgraded does not befall its successor, which is of the
// present template: whoever attaches the volume would find it gone.
func TestASuccessorIsNotUpgradedForItsPredecessor(t *testing.T) {
	c := newCluster(t)
	now := clock.NewManual(time.Now())
	c.clock, c.upgradeEvery, c.template = now, time.Second, "old"
	f := c.open()
	t.Cleanup(func() { closeFleet(t, f) })
	mustCreate(t, f, newVolume(1, "g"))
	mustAttach(t, f, 1, "node1")
	begun := make(chan struct{}, 100)
	c.handOver = func(ctx context.Context, _ fleet.EngineSpec) error {
		begun <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	c.mu.Lock()
	pod := c.engines[id(1)].pod
	c.mu.Unlock()
	pod.Leave()
	<-begun
	// While the engine is being handed over its upgrade is decided, and waits.
	c.setTemplate("new", false)
	for range 2 { // the second look begins when the first is over
		c.mu.Lock()
		seen := c.looks
		c.mu.Unlock()
		now.Advance(time.Second)
		until(t, "a look at the template", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.looks > seen
		})
	}
	mustDetach(t, f, 1)
	mustAttach(t, f, 1, "node2")
	mustDetach(t, f, 1)
	until(t, "the engine to be stopped", func() bool {
		now.Advance(c.linger) // of which the engine knows when its plan is another one
		return c.node(id(1)) == ""
	})
	if len(begun) > 0 {
		t.Errorf("%d handovers of an engine of the present template", len(begun))
	}
}

// An engine that is kept although nothing wants it any more is not replaced when
// it is told to end: who drains a node would wait for it.
func TestAnIdleEngineThatLeavesIsStopped(t *testing.T) {
	c := newCluster(t)
	c.linger = time.Hour
	f := c.open()
	t.Cleanup(func() { closeFleet(t, f) })
	mustCreate(t, f, newVolume(1, "g"))
	mustAttach(t, f, 1, "node1")
	mustDetach(t, f, 1)
	c.mu.Lock()
	pod := c.engines[id(1)].pod
	c.mu.Unlock()
	pod.Leave()
	until(t, "the engine to be stopped", func() bool { return c.node(id(1)) == "" })
	if got := c.handovers(); len(got) != 0 {
		t.Errorf("handovers of %v, want none", got)
	}
}

// The pod of an engine that is not used any more may be evicted as often as it
// is made again, and then is never brought up to date. That does not keep it.
func TestAnEngineThatCannotBeBroughtUpToDateIsStopped(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	t.Cleanup(func() { closeFleet(t, f) })
	mustCreate(t, f, newVolume(1, "g"))
	mustAttach(t, f, 1, "node1")
	c.mu.Lock()
	c.run = func(ctx context.Context, _ fleet.EngineSpec) error {
		<-ctx.Done()
		return ctx.Err()
	}
	c.mu.Unlock()
	mustDetach(t, f, 1)
	until(t, "the engine to be stopped", func() bool { return c.node(id(1)) == "" })
}
