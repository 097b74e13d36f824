package journal

import "time"

// keptPoint is what KeepPoint keeps. Guarded by holdMu.
type keptPoint struct {
	at    Position  // what KeepPoint was given; zero: nothing is kept
	hold  *hold     // nil then
	until time.Time // when that ends; zero: it does not
	lost  Position  // what was given up last for want of room, see keptroom.go
}

// KeepPoint keeps the horizon, and thinning, from taking a checkpoint's position away, also
// where the journal is over its budget or the checkpoint has left the window, as long as
// there is room: it gives way before a record is refused (keptroom.go), and is not kept
// again then, whoever asks for it. It replaces the position that was kept before; the zero
// Position lets go of that, and so does one that the horizon has passed. After d from now on the store lets go by itself; 0: never. Not
// durable: a store that is opened keeps none.
//
// It is for the newest recovery point of a group that a replica has: its members are
// fed apart from each other, and the one that is ahead is not to give up, for what
// is newer, the only moment that all of them have.
func (s *Store) KeepPoint(at Position, d time.Duration) {
	s.mu.RLock() // the horizon
	_, gone := s.tree.path(s.state.Horizon, at)
	s.holdMu.Lock()
	k := &s.kept
	if gone != nil || at == k.lost { // if that is still there, it is about to go
		at = Position{}
	}
	k.until = time.Time{}
	if d > 0 {
		k.until = s.cfg.Clock.Now().Add(d)
	}
	same := k.at == at
	if !same {
		s.keepLocked(at)
	}
	s.holdMu.Unlock()
	s.mu.RUnlock()
	if !same {
		s.letGo()
	}
}

// keepLocked changes what is kept. holdMu must be held.
//
// A horizon that moves at this moment does not pass what was kept before, and what
// is kept from now on lies behind that.
func (s *Store) keepLocked(at Position) {
	k := &s.kept
	delete(s.holds, k.hold)
	k.at, k.hold = at, nil
	if at == (Position{}) {
		return
	}
	// The horizon stays before the checkpoint's record: behind it the record, and
	// with it what says that there is a checkpoint, would go.
	k.hold = &hold{at: Position{at.Timeline, at.Seq - min(at.Seq, 1)}, point: true}
	s.holds[k.hold] = struct{}{}
}

// KeptPoint is what KeepPoint keeps; zero if that is nothing.
func (s *Store) KeptPoint() Position {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	return s.kept.at
}

// endKeptPoint lets go of what nobody has said for long that it is still to be kept. Who says
// so at this moment is either before that, or keeps it anew.
func (s *Store) endKeptPoint() {
	s.holdMu.Lock()
	k := &s.kept
	over := !k.until.IsZero() && s.cfg.Clock.Now().After(k.until)
	if over {
		k.until = time.Time{}
		s.keepLocked(Position{})
	}
	s.holdMu.Unlock()
	if over {
		s.letGo()
	}
}
