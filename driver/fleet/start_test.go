package fleet_test

import (
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

// An engine that runs and does not listen yet is tried again soon, and one that
// does not for long is no burden.
func TestAnEngineThatStartsIsFoundSoon(t *testing.T) {
	c := newCluster(t)
	now := clock.NewManual(time.Now())
	c.clock, c.upgradeEvery, c.deaf = now, time.Hour, true
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	woken := make(chan error, 1)
	go func() {
		release, err := f.Wake(bounded(t), "shop", false)
		if err == nil {
			release()
		}
		woken <- err
	}()
	var pauses []time.Duration
	for range 7 {
		until(t, "an attempt to have failed", func() bool {
			next, waits := now.Next()
			return waits && next <= time.Second
		})
		next, _ := now.Next()
		pauses = append(pauses, next)
		now.Advance(next)
	}
	want := []time.Duration{50, 100, 200, 400, 800, 1000, 1000}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
	if c.starts != 1 {
		t.Errorf("%d engines were started", c.starts)
	}
	c.mu.Lock()
	c.deaf = false
	c.mu.Unlock()
	for {
		select {
		case err := <-woken:
			if err != nil {
				t.Error(err)
			}
			return
		case <-time.After(time.Millisecond):
			if next, waits := now.Next(); waits && next <= time.Second {
				now.Advance(next)
			}
		}
	}
}

// That it has become known where an engine runs is nothing to connect anew for.
func TestAnEngineIsConnectedOnce(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	for range 20 {
		release, err := f.Wake(bounded(t), "shop", false)
		if err != nil {
			t.Fatal(err)
		}
		release()
		until(t, "the engine to be stopped", func() bool { return c.node(id(1)) == "" })
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connections != 20 {
		t.Errorf("%d connections for 20 lives of an engine", c.connections)
	}
}
