package journal

import (
	"fmt"
	"time"
)

// maxNamedHolds bounds what Hold keeps at a time.
const maxNamedHolds = 1024

// namedHold is one of Hold.
type namedHold struct {
	*hold
	until time.Time
}

// Hold keeps a position that can be opened, as a View does, and where it is still there the record
// that leads to it, by which a checkpoint there is known, under a name until Release, or for d from now on if nobody calls that: whoever has chosen a position
// and is about to open, pin or fork it has time to. The same name again holds what
// is given then, for as long as is given then; on an error it holds what it held.
// Not durable: a store that is opened thins nothing for a while (thinSettle).
// ErrHorizon, ErrThinned, ErrUnknownPosition; ErrRange for d below or at zero, or
// where too much is held.
func (s *Store) Hold(name string, at Position, d time.Duration) error {
	return s.holdAt(name, 0, at, d)
}

// HoldCheckpoint is Hold of a checkpoint that somebody has chosen from a list, as OpenableIn or
// LeftCheckpoints. Where destage has taken its record since, the position may still be opened, as that of the
// horizon is; but no list has the checkpoint any more, and what a pin of it kept nobody would find: ErrHorizon.
func (s *Store) HoldCheckpoint(name string, number CheckpointNumber, at Position, d time.Duration) error {
	return s.holdAt(name, number, at, d)
}

// holdAt is Hold, with a number other than 0 HoldCheckpoint.
func (s *Store) holdAt(name string, number CheckpointNumber, at Position, d time.Duration) error {
	fail := func(err error) error { return fmt.Errorf("hold %s for %q: %w", at, name, err) }
	if d <= 0 {
		return fail(fmt.Errorf("for %v: %w", d, ErrRange))
	}
	s.endHolds()
	s.mu.RLock()
	defer s.mu.RUnlock()
	err := s.usable()
	if err == nil {
		_, err = s.tree.path(s.state.Horizon, at)
	}
	if err == nil {
		err = s.checkOpenLocked(at)
	}
	if err == nil && number != 0 {
		err = s.checkListedLocked(number, at)
	}
	if err != nil {
		return fail(err)
	}
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	old, again := s.named[name]
	if !again && len(s.named) >= maxNamedHolds {
		return fail(fmt.Errorf("%d positions are held already: %w", len(s.named), ErrRange))
	}
	delete(s.holds, old.hold)
	h := &hold{at: at, record: true}
	s.holds[h] = struct{}{}
	s.named[name] = namedHold{h, s.cfg.Clock.Now().Add(d)}
	return nil
}

// checkListedLocked is ErrHorizon for a checkpoint that was at a position, and is in no list any more,
// or not for long: the batch of destage under way takes its record. mu must be held.
func (s *Store) checkListedLocked(number CheckpointNumber, at Position) error {
	if c, there := s.checkpointAtLocked(at); !there || c.Number != number || s.recordGoesLocked(at) {
		return fmt.Errorf("checkpoint %d, which was there, was given up: %w", number, ErrHorizon)
	}
	return nil
}

// Release ends a Hold; nothing if there is none of the name.
func (s *Store) Release(name string) {
	s.endHoldsThat(func(held string, _ namedHold) bool { return held == name })
}

// endHolds ends those that nobody has released in time.
func (s *Store) endHolds() {
	s.endKeptPoint()
	now := s.cfg.Clock.Now()
	s.endHoldsThat(func(_ string, h namedHold) bool { return now.After(h.until) })
}

func (s *Store) endHoldsThat(are func(name string, h namedHold) bool) {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	for name, h := range s.named {
		if are(name, h) {
			delete(s.named, name)
			delete(s.holds, h.hold)
			s.letGo()
		}
	}
}
