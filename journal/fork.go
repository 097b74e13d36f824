package journal

import (
	"fmt"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Fork begins a new timeline at a position and makes it the active one; the
// live volume then is the image at that position; it keeps its size, and what
// lies beyond the size of that moment reads as zeroes. Nothing is copied, and the
// records behind the position stay readable on their own timeline until the
// horizon passes the fork. Durable on return. ErrHorizon,
// ErrUnknownPosition; on any error the active timeline is as it was. Appends
// wait meanwhile, which takes as long as opening a view.
func (s *Store) Fork(at Position, reason string) (Timeline, error) {
	patient := s.impatience()
	s.maintainMu.Lock()
	patient()
	defer s.maintainMu.Unlock()
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	return s.forkLocked(at, reason)
}

// forkLocked is Fork with appendMu held.
func (s *Store) forkLocked(at Position, reason string) (Timeline, error) {
	s.mu.RLock()
	id, err := s.tree.newTimelineID(s.cfg.Random)
	s.mu.RUnlock()
	if err != nil {
		return Timeline{}, err
	}
	line := Timeline{ID: id, Parent: at, Created: s.cfg.Clock.Now().UTC(), Reason: reason}
	if err := s.activate(line); err != nil {
		return Timeline{}, fmt.Errorf("fork at %s: %w", at, err)
	}
	s.forkFirst = false // nobody else can have records of this timeline
	return line, nil
}

// Adopt makes a timeline that another site's store of this volume created the
// active one. Its parent must be a position of this store, inside the horizon.
// A known timeline is activated again at its own tip. A local append then
// begins a timeline of its own. Idempotent, durable on return; errors as Fork.
func (s *Store) Adopt(line Timeline) error {
	patient := s.impatience()
	s.maintainMu.Lock()
	patient()
	defer s.maintainMu.Unlock()
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	s.mu.RLock()
	known, ok := s.tree.timelines[line.ID]
	active := s.state.Active
	s.mu.RUnlock()
	if ok && known.Parent != line.Parent {
		return fmt.Errorf("adopt timeline %s: it forks at %s here and at %s there: %w", line.ID, known.Parent, line.Parent, ErrDiverged)
	}
	if active == line.ID {
		return nil
	}
	if err := s.activate(line); err != nil {
		return fmt.Errorf("adopt timeline %s: %w", line.ID, err)
	}
	// Its records are another site's to make, or were this one's before a
	// crash that may have taken some: no seq of it may be used twice.
	s.forkFirst = true
	return nil
}

// activate switches the live view to a timeline, which begins at its parent or
// is known already. appendMu must be held. The new index is built before
// anything changes.
func (s *Store) activate(line Timeline) error {
	if line.ID == 0 {
		return ErrUnknownPosition
	}
	s.dropLeap()
	if err := s.syncJournal(); err != nil {
		return err
	}
	s.mu.RLock()
	start, tip := line.Parent, s.tipLocked()
	if _, known := s.tree.timelines[line.ID]; known {
		start = Position{line.ID, s.tree.last[line.ID]}
	}
	index, size := s.index, s.tipBytes
	s.mu.RUnlock()
	if start != tip {
		var err error
		if index, size, err = s.indexAt(start); err != nil {
			return err
		}
	}
	s.retireActive()
	var replaced *stack
	err := s.changeState(
		func(next *catalogState) { next.Active, next.CleanTip = line.ID, nil },
		func(tx kv.Tx) error { return s.cat.saveTimeline(tx, line) },
		func() {
			if _, known := s.tree.timelines[line.ID]; !known {
				s.tree.add(line)
			}
			if s.index != index {
				replaced = s.index.stack
			}
			s.index, s.tipBytes = index, size
			s.forks++
			s.durable = s.tipLocked()
			s.durableSeq.Store(uint64(s.durable.Seq))
			s.announceLocked()
		})
	if err != nil && start != tip {
		replaced = index.stack
	}
	s.releaseStack(replaced)
	return err
}
