package clock_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// received returns the value on a timer's channel, as time since start.
func received(timer clock.Timer) (time.Duration, bool) {
	select {
	case at := <-timer.C():
		return at.Sub(start), true
	default:
		return 0, false
	}
}

func expectFired(t *testing.T, timer clock.Timer, at time.Duration) {
	t.Helper()
	if got, ok := received(timer); !ok || got != at {
		t.Errorf("received %v, %v; want %v", got, ok, at)
	}
}

func expectSilent(t *testing.T, timer clock.Timer) {
	t.Helper()
	if got, ok := received(timer); ok {
		t.Errorf("received %v, want nothing", got)
	}
}

func TestManualStandsStill(t *testing.T) {
	c := clock.NewManual(start)
	if !c.Now().Equal(start) {
		t.Errorf("made at %v, want %v", c.Now(), start)
	}
	c.Advance(90 * time.Second)
	if got := c.Now().Sub(start); got != 90*time.Second {
		t.Errorf("advanced by %v, want 90s", got)
	}
}

func TestTimerFiresOnceAtItsDeadline(t *testing.T) {
	c := clock.NewManual(start)
	timer := c.NewTimer(time.Second)
	c.Advance(time.Second - 1)
	expectSilent(t, timer)
	c.Advance(time.Hour)
	expectFired(t, timer, time.Second)
	c.Advance(time.Hour)
	expectSilent(t, timer)
	if timer.Stop() {
		t.Error("stop after firing returned true")
	}
}

func TestTimerWithoutDurationHasFired(t *testing.T) {
	c := clock.NewManual(start)
	expectFired(t, c.NewTimer(0), 0)
	expectFired(t, c.NewTimer(-time.Second), 0)
}

func TestStoppedTimerIsSilent(t *testing.T) {
	c := clock.NewManual(start)
	pending, due := c.NewTimer(time.Minute), c.NewTimer(time.Second)
	if !pending.Stop() || pending.Stop() {
		t.Error("want true from the first stop and false from the second")
	}
	c.Advance(time.Hour)
	// As with time.Timer, stopping takes back what nobody has received.
	if !due.Stop() || due.Stop() {
		t.Error("want true from the stop that takes the value back and false after it")
	}
	expectSilent(t, pending)
	expectSilent(t, due)
}

func TestTimersWaitInTheOrderOfTheirDeadlines(t *testing.T) {
	c := clock.NewManual(start)
	timers := map[time.Duration]clock.Timer{}
	for _, d := range []time.Duration{5, 1, 3, 4, 2} {
		timers[d] = c.NewTimer(d)
	}
	for want := time.Duration(1); want <= 5; want++ {
		d, ok := c.Next()
		if !ok || d != 1 {
			t.Fatalf("next fires in %v, %v; want 1ns", d, ok)
		}
		c.Advance(d)
		expectFired(t, timers[want], want)
	}
	if d, ok := c.Next(); ok {
		t.Errorf("a timer is left, due in %v", d)
	}
}

func TestOneAdvanceFiresAllThatIsDue(t *testing.T) {
	c := clock.NewManual(start)
	late, early, twin, beyond := c.NewTimer(3), c.NewTimer(1), c.NewTimer(1), c.NewTimer(5)
	c.Advance(4)
	expectFired(t, late, 3)
	expectFired(t, early, 1)
	expectFired(t, twin, 1)
	expectSilent(t, beyond)
}

func TestWaitForTimersSeesAGoroutineWaiting(t *testing.T) {
	c := clock.NewManual(start)
	const ticks = 3
	var log []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for range ticks {
			at := <-c.NewTimer(time.Second).C()
			log = append(log, fmt.Sprint(at.Sub(start)))
		}
	})
	for range ticks {
		c.WaitForTimers(1)
		d, _ := c.Next()
		c.Advance(d)
	}
	wg.Wait()
	if want := []string{"1s", "2s", "3s"}; !slices.Equal(log, want) {
		t.Errorf("ticks at %v, want %v", log, want)
	}
}

func TestAdvanceRefusesToGoBack(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	clock.NewManual(start).Advance(-1)
}

func TestWallTimer(t *testing.T) {
	var c clock.Clock = clock.Wall{}
	before := c.Now()
	at := <-c.NewTimer(time.Millisecond).C()
	if at.Sub(before) < time.Millisecond {
		t.Errorf("fired after %v, want at least 1ms", at.Sub(before))
	}
	if timer := c.NewTimer(time.Hour); !timer.Stop() || timer.Stop() {
		t.Error("want true from the first stop and false from the second")
	}
}
