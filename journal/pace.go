package journal

import (
	"context"
	"time"
)

// Destage gives way to the requests of the volume's users. It works in steps
// of paceBytes, and after each rests as long as its duty asks for, if there
// were requests meanwhile. The duty is the part of the time in which it works:
// small while the journal is hardly over its budget, because the work can wait
// and is less when it has waited (what is overwritten is written once), and
// whole when the journal is half as large again, because then it cannot.

const (
	paceBytes = 1 << 20
	minDuty   = 0.05
	// maxRest bounds one pause, so that the end of a load is noticed.
	maxRest = 250 * time.Millisecond
)

// pacer holds back one batch of destage, or the making of one index run.
type pacer struct {
	s        *Store
	began    time.Time       // of the present step
	bytes    int64           // done in it
	requests uint64          // Store.requests when it began
	hurry    <-chan struct{} // ends a rest; nil: nothing does
	duty     func() float64
}

func (s *Store) newPacer() *pacer {
	return &pacer{s: s, began: s.cfg.Clock.Now(), requests: s.requests.Load(), hurry: s.hurry, duty: s.duty}
}

// did counts bytes that were read or written, and rests if it is time to.
func (p *pacer) did(ctx context.Context, bytes int64) error {
	if p.bytes += bytes; p.bytes < paceBytes {
		return nil
	}
	s := p.s
	now, requests := s.cfg.Clock.Now(), s.requests.Load()
	rest := time.Duration(0)
	if requests != p.requests && s.impatient.Load() == 0 {
		rest = restAfter(now.Sub(p.began), p.duty())
	}
	if rest > 0 {
		timer := s.cfg.Clock.NewTimer(rest)
		select {
		case <-timer.C():
		case <-p.hurry:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
		}
	}
	p.began, p.bytes, p.requests = s.cfg.Clock.Now(), 0, s.requests.Load()
	return ctx.Err()
}

// restAfter is the pause after work that makes the work's part of the time
// duty.
func restAfter(worked time.Duration, duty float64) time.Duration {
	if duty >= 1 {
		return 0
	}
	return min(time.Duration(float64(worked)*(1-duty)/duty), maxRest)
}

// duty is what the size of the journal asks of destage.
func (s *Store) duty() float64 {
	s.mu.RLock()
	total, budget := s.historyBytesLocked(), s.cfg.JournalBytes
	s.mu.RUnlock()
	if s.pressed.Load() || s.rushed.Load() || s.roomShort.Load() > 0 {
		return 1
	}
	return dutyOf(total, budget)
}

// dutyOf rises from minDuty at the budget to 1 at half as much again. Without a
// budget what is due has left the window, and has time.
func dutyOf(journalBytes, budget int64) float64 {
	if budget <= 0 {
		return minDuty
	}
	over := 2 * float64(journalBytes-budget) / float64(budget)
	return min(max(over, minDuty), 1)
}

// impatience hurries a batch of destage under way until the returned function
// is called: someone waits for maintainMu.
func (s *Store) impatience() (patient func()) {
	s.impatient.Add(1)
	wake(s.hurry)
	return func() { s.impatient.Add(-1) }
}
