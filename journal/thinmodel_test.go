package journal

import (
	"errors"
	"testing"
	"time"
)

// mayBeThinned is what the history lets a store refuse: positions between
// checkpoints of which one behind them has left the first tier, and checkpoints
// that are not the first of their interval. It looks at all that ever was, and
// not at what a store has kept of it.
func (m *model) mayBeThinned(pos Position) bool {
	for _, parent := range m.parents {
		if parent == pos {
			return false
		}
	}
	for name, at := range m.pins {
		if at == pos && (m.attempt == nil || m.attempt.pin != name) { // else it may have been deleted
			return false
		}
	}
	if m.outlived(pos) {
		return true
	}
	if len(m.history) < 2 {
		return false
	}
	now, between := m.now(), false
	for number, at := range m.points {
		if at == pos {
			return !m.isFirst(number, m.intervalFor(now.Sub(m.times[number])))
		}
		if at.Timeline == pos.Timeline && at.Seq > pos.Seq && now.Sub(m.times[number]) > m.history[0].Age {
			between = true
		}
	}
	return between
}

func (m *model) intervalFor(age time.Duration) time.Duration {
	if age <= m.history[0].Age {
		return 0
	}
	for _, tier := range m.history[1:] {
		if age <= tier.Age {
			return tier.Interval
		}
	}
	return m.history[len(m.history)-1].Interval
}

// isFirst reports whether no other checkpoint on the path to this one lies in
// its interval.
func (m *model) isFirst(number CheckpointNumber, interval time.Duration) bool {
	if interval == 0 {
		return true
	}
	begin := m.times[number].Truncate(interval)
	for other, at := range m.points {
		if other != number && m.descends(m.points[number], at) && !m.times[other].Before(begin) {
			return false
		}
	}
	return true
}

// checkNeighbours: the checkpoints that an error names can be opened.
func (m *model) checkNeighbours(t *testing.T, s *Store, pos Position, err error) {
	t.Helper()
	var thinned *ThinnedError
	if !errors.As(err, &thinned) || thinned.At != pos || !errors.Is(err, ErrHorizon) {
		t.Fatalf("open %s: %v, want a ThinnedError for it", pos, err)
	}
	for _, c := range []Checkpoint{thinned.Before, thinned.After} {
		if c.Number == 0 {
			continue
		}
		if v, err := s.View(c.Position); err == nil {
			_ = v.Close()
		} else if !errors.Is(err, ErrHorizon) || errors.Is(err, ErrThinned) { // destaged in the middle of its segment
			t.Fatalf("the neighbour %d of %s cannot be opened: %v", c.Number, pos, err)
		}
	}
	if b, a := thinned.Before, thinned.After; b.Number != 0 && b.Position.Seq >= pos.Seq || a.Number != 0 && a.Position.Seq <= pos.Seq {
		t.Fatalf("neighbours of %s are %s and %s", pos, b.Position, a.Position)
	}
}

// thinning has tiers that a few dozen calls, of a second each, go through.
func thinning(cfg *Config) {
	cfg.History = History{{time.Second, 4 * time.Second}, {4 * time.Second, 20 * time.Second}, {16 * time.Second, 10 * time.Minute}}
	cfg.minThinSegments = 2
}

// thinningSmallIndex makes thinning meet stacks and runs, too.
func thinningSmallIndex(cfg *Config) {
	thinning(cfg)
	smallIndex(cfg)
}

// thinningShortJournal makes destage follow close behind.
func thinningShortJournal(cfg *Config) {
	thinning(cfg)
	cfg.JournalBytes = 6 * MinSegmentBytes
}

// writeMuch fills segments fast.
func (w *world) writeMuch() error {
	off, length := randomExtent(w.rng, w.m.size, 128)
	p := randomBytes(w.rng, length)
	_, err := w.record(w.m.after(p, off), func() (Position, error) { return w.s.Write(p, off) })
	return err
}

func (w *world) isThinned(pos Position) bool {
	w.s.mu.RLock()
	defer w.s.mu.RUnlock()
	return w.s.isThinnedLocked(pos)
}
