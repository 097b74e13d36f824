package journal

import (
	"cmp"
	"fmt"
	"slices"
)

// ThinnedError says that a position lies between kept checkpoints that are old
// enough to have been thinned (see History), or between pins, behind the window. It matches ErrThinned, and
// ErrHorizon, because for whoever can go another way it is the same: history
// does not reach there.
type ThinnedError struct {
	At Position
	// Before and After are the nearest checkpoints on At's timeline that can
	// be opened; Number 0 if there is none.
	Before, After Checkpoint
}

// Error names the nearest checkpoints that can be opened.
func (e *ThinnedError) Error() string {
	text := fmt.Sprintf("%v: %s", ErrThinned, e.At)
	for _, c := range []Checkpoint{e.Before, e.After} {
		if c.Number != 0 {
			text += fmt.Sprintf("; checkpoint %d of %s is at %s", c.Number, c.Time.Format("2006-01-02T15:04:05.000Z"), c.Position)
		}
	}
	return text
}

// Unwrap returns the sentinels that this error is of.
func (e *ThinnedError) Unwrap() []error { return []error{ErrThinned, ErrHorizon} }

// checkOpenLocked returns why a position that the tree knows cannot be opened:
// a *ThinnedError, or nil. mu must be held.
func (s *Store) checkOpenLocked(at Position) error {
	if !s.isThinnedLocked(at) {
		return nil
	}
	e := &ThinnedError{At: at}
	for _, g := range s.lineLocked(at.Timeline) {
		for _, c := range g.checkpoints {
			switch {
			case s.isThinnedLocked(c.Position): // a rewrite is about to drop it
			case c.Position.Seq < at.Seq:
				e.Before = c
			case e.After.Number == 0:
				e.After = c
			}
		}
	}
	return e
}

// isThinnedLocked reports whether the state at a position is not to be had any
// more, because versions that it needs have been dropped. mu must be held.
func (s *Store) isThinnedLocked(at Position) bool {
	if job := s.thinning; job != nil && job.drops(at) {
		return true
	}
	g := s.segmentOfLocked(at)
	if g == nil || g.thinned == 0 {
		return false
	}
	_, found := slices.BinarySearchFunc(g.checkpoints, at.Seq, func(c Checkpoint, seq Seq) int { return cmp.Compare(c.Position.Seq, seq) })
	s.eachExactLocked(func(exact Position) { found = found || exact == at })
	return !found
}

// segmentOfLocked returns the segment that has a position's record.
func (s *Store) segmentOfLocked(at Position) *segment {
	for _, g := range s.segments {
		if g.timeline == at.Timeline && g.first <= at.Seq && at.Seq <= g.last {
			return g
		}
	}
	return nil
}

// anchorsLocked are the positions of a timeline, beside checkpoints, that
// thinning keeps as they are, in no order: pins, where timelines begin, what
// views hold, base and horizon. mu must be held.
func (s *Store) anchorsLocked(line TimelineID) (anchors []Seq) {
	s.eachAnchorLocked(func(at Position) {
		if at.Timeline == line {
			anchors = append(anchors, at.Seq)
		}
	})
	return anchors
}

func (s *Store) eachAnchorLocked(fn func(Position)) {
	s.eachExactLocked(fn)
	if at := s.KeptPoint(); at != (Position{}) {
		fn(at)
	}
}

// eachExactLocked are those of the anchors that could be opened when they came to be
// ones, and so still can. KeepPoint asks nobody: what it keeps may have been dropped.
func (s *Store) eachExactLocked(fn func(Position)) {
	fn(s.state.Base)
	fn(s.state.Horizon)
	for _, t := range s.tree.timelines {
		fn(t.Parent)
	}
	s.eachKeeperLocked(fn)
}
