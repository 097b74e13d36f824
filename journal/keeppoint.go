package journal

// KeepPoint keeps the horizon, and thinning, from taking a checkpoint's position away, whatever else
// happens: also where there is no room (ErrFull) or the journal is over its budget. It
// replaces the position that was kept before; the zero Position lets go of that. Not
// durable: a store that is opened keeps none.
//
// It is for the newest recovery point of a group that a replica has: its members are
// fed apart from each other, and the one that is ahead must not give up, for what
// is newer, the only moment that all of them have.
func (s *Store) KeepPoint(at Position) {
	if s.keptPoint() == at {
		return
	}
	s.holdMu.Lock()
	// A horizon that moves at this moment does not pass what was kept before, and what
	// is kept from now on lies behind that.
	delete(s.holds, s.kept)
	s.kept, s.keptAt = nil, at
	if at != (Position{}) {
		// The horizon stays before the checkpoint's record: behind it the record, and
		// with it what says that there is a checkpoint, would go.
		s.kept = &hold{at: Position{at.Timeline, at.Seq - min(at.Seq, 1)}, point: true}
		s.holds[s.kept] = struct{}{}
	}
	s.holdMu.Unlock()
	s.letGo()
}

// keptPoint is that position; zero if there is none.
func (s *Store) keptPoint() Position {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	return s.keptAt
}
