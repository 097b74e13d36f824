package replication

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// fixedClock stands still unless told otherwise; its timers never fire.
type fixedClock struct{ now time.Time }

func (c fixedClock) Now() time.Time                     { return c.now }
func (c fixedClock) NewTimer(time.Duration) clock.Timer { return deadTimer{} }

type deadTimer struct{}

func (deadTimer) C() <-chan time.Time { return nil }
func (deadTimer) Stop() bool          { return true }

// TestPause: steps double from minBackoff to maxBackoff, each is shortened by
// up to a half, and reset begins anew.
func TestPause(t *testing.T) {
	for _, jitter := range []float64{0, 0.5, 0.999} {
		p := pause{random: func() float64 { return jitter }}
		for step := minBackoff; step < 4*maxBackoff; step *= 2 {
			got, whole := p.length(), min(step, maxBackoff)
			if got < whole/2 || got > whole || got != whole/2+time.Duration(jitter*float64(whole/2)) {
				t.Errorf("jitter %v: pause of %v, want between %v and %v", jitter, got, whole/2, whole)
			}
		}
		p.reset()
		if got := p.length(); got > minBackoff {
			t.Errorf("pause after reset is %v", got)
		}
	}
}

// TestSleepEndsWithContext: nobody waits out a pause when all is over.
func TestSleepEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := sleep(ctx, fixedClock{}, time.Hour, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("sleep returned %v", err)
	}
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	if err := sleep(context.Background(), fixedClock{}, time.Hour, wake); err != nil {
		t.Errorf("woken sleep returned %v", err)
	}
}

// TestLag is the table of what lag means.
func TestLag(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name    string
		acked   []charge
		durable journal.Position
		now     time.Duration
		records int64
		lag     time.Duration
	}{
		{"nothing there yet", nil, pos(1, 10), 5 * time.Second, 10, 5 * time.Second},
		{"caught up", []charge{{through: pos(1, 10)}}, pos(1, 10), 5 * time.Second, 0, 0},
		{"behind, holds no checkpoint", []charge{{through: pos(1, 4)}}, pos(1, 10), 5 * time.Second, 6, 5 * time.Second},
		{"behind a checkpoint", []charge{{through: pos(1, 4), checkpoint: start.Add(3 * time.Second).UnixNano()}}, pos(1, 10), 5 * time.Second, 6, 2 * time.Second},
		{"other clock is ahead", []charge{{through: pos(1, 4), checkpoint: start.Add(time.Hour).UnixNano()}}, pos(1, 10), 5 * time.Second, 6, 0},
		{"rewound before the replica", []charge{{through: pos(1, 40)}}, pos(2, 10), 5 * time.Second, 10, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVolumeStats(volumeOne, fixedClock{start})
			v.acknowledged(c.acked)
			v.clock = fixedClock{start.Add(c.now)}
			if m := v.snapshot(c.durable); m.LagRecords != c.records || m.LagTime != c.lag {
				t.Errorf("lag is %d records and %v, want %d and %v", m.LagRecords, m.LagTime, c.records, c.lag)
			}
		})
	}
}
