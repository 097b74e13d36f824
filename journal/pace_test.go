package journal

import (
	"context"
	"testing"
	"time"
)

func TestDutyFollowsTheJournalsSize(t *testing.T) {
	const budget = 1000
	for _, tt := range []struct {
		bytes, budget int64
		want          float64
	}{
		{900, budget, minDuty}, {1000, budget, minDuty}, {1250, budget, 0.5}, {1500, budget, 1}, {9000, budget, 1},
		{1 << 40, 0, minDuty},
	} {
		if got := dutyOf(tt.bytes, tt.budget); got != tt.want {
			t.Errorf("journal of %d bytes, budget %d: duty %v, want %v", tt.bytes, tt.budget, got, tt.want)
		}
	}
}

func TestRestMakesTheDuty(t *testing.T) {
	for _, tt := range []struct {
		worked time.Duration
		duty   float64
		want   time.Duration
	}{
		{time.Millisecond, 1, 0}, {time.Millisecond, 0.5, time.Millisecond}, {time.Millisecond, 0.25, 3 * time.Millisecond},
		{time.Second, 0.05, maxRest},
	} {
		if got := restAfter(tt.worked, tt.duty); got != tt.want {
			t.Errorf("worked %v at duty %v: rest %v, want %v", tt.worked, tt.duty, got, tt.want)
		}
	}
}

// While requests come destage rests; without them it does not, and whoever
// waits for maintainMu ends a rest.
func TestDestageRestsWhileThereAreRequests(t *testing.T) {
	w := newWorld(t, 1, func(cfg *Config) { cfg.JournalBytes = 1 << 40 })
	s := w.s
	ctx := context.Background()
	step := func(requests uint64) <-chan error {
		p := s.newPacer()
		w.clock.Advance(time.Second) // what the step took
		s.requests.Add(requests)
		done := make(chan error, 1)
		go func() { done <- p.did(ctx, paceBytes) }()
		return done
	}
	wait := func(done <-chan error) {
		t.Helper()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	wait(step(0)) // or the test hangs: nobody moves the clock

	resting := step(1)
	w.clock.WaitForTimers(1)
	select {
	case err := <-resting:
		t.Errorf("did not rest although a request came: %v", err)
	default:
	}
	w.clock.Advance(maxRest)
	wait(resting)

	resting = step(1)
	w.clock.WaitForTimers(1)
	patient := s.impatience()
	wait(resting)
	wait(step(1)) // somebody waits
	patient()

	s.pressed.Store(true)
	wait(step(1)) // space has run out
	s.pressed.Store(false)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
