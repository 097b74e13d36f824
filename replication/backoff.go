package replication

import (
	"context"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

// pause is a jittered exponential backoff between minBackoff and maxBackoff.
// It is used by one goroutine.
type pause struct {
	clock  clock.Clock
	random func() float64 // in [0, 1)
	next   time.Duration
}

// reset makes the next pause the shortest.
func (p *pause) reset() { p.next = 0 }

// length returns how long to wait now, between half of the current step and
// the whole of it, so that the streams of a site do not all come back at the
// same moment; and doubles the step.
func (p *pause) length() time.Duration {
	step := min(max(p.next, minBackoff), maxBackoff)
	p.next = 2 * step
	return step/2 + time.Duration(p.random()*float64(step/2))
}

// wait waits for length, or until ctx ends or wake has a token.
func (p *pause) wait(ctx context.Context, wake <-chan struct{}) error {
	return sleep(ctx, p.clock, p.length(), wake)
}

// sleep waits for d on c, or until ctx ends (its error) or wake has a token.
func sleep(ctx context.Context, c clock.Clock, d time.Duration, wake <-chan struct{}) error {
	timer := c.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
