package journal

import "context"

// What KeepPoint keeps is worth room, and no record: the disk of a member that goes on,
// while another one takes a whole image for hours, would be full of it some day, its
// stream would be refused, and it would need an image itself, for which it has
// no room. So the point goes behind all older history, and before anything that
// somebody feels: what readers have yet to read, a refused record. Pins stay. The reasons
// are in docs/decisions/0023-a-kept-point-gives-way.md.
//
// A disk that is filled by others is no reason, as long as nothing is written here: a
// whole image of the same volume may be what fills it, and if it finds no room, what is kept
// here is all that there is. So it takes an append that needs room (Store.needed).

// yieldPoint gives the point up ahead of time: what is due, by budget or window, is
// kept for it alone, and appends take room of a file system that is nearly full, or
// were refused some. maintainMu must be held.
func (s *Store) yieldPoint(refused bool) (gained bool) {
	if !s.needed || !refused && !s.isNearlyFull() || !s.givePointUp() {
		return false
	}
	// Base and journal share what is left of the room until the journal is smaller.
	s.rushed.Store(true)
	if s.batchLimit == 0 {
		s.batchLimit = roomBatchSegments
	}
	return true
}

// giveUpPoint is the fourth sacrifice, with a batch of the history that was there for
// it.
func (s *Store) giveUpPoint(ctx context.Context) (gained bool, err error) {
	if s.needed {
		s.givePointUp()
	}
	return s.giveUpHistory(ctx)
}

// givePointUp lets go of what KeepPoint keeps, if nothing can be destaged because of
// that, and of that alone. maintainMu must be held.
func (s *Store) givePointUp() (gained bool) {
	at := s.KeptPoint()
	if at == (Position{}) || s.canDestage() {
		return false
	}
	s.yielding = true
	alone := s.canDestage()
	s.yielding = false
	if !alone {
		return false
	}
	s.holdMu.Lock()
	same := s.kept.at == at
	if same {
		s.keepLocked(Position{})
		s.kept.lost = at
	}
	s.holdMu.Unlock()
	if !same { // whoever kept it has let go of it, or keeps a newer one
		return true
	}
	s.letGo()
	s.short.notePoint()
	total, free, _ := s.cfg.FS.Space(s.cfg.file(journalDir)) // only for the log
	s.cfg.Log.Warn("what was kept for the newest recovery point that the group's members have in common is given up for want of room: there may be none on this site until all members have a newer one",
		"volume", s.volume, "position", at, "freeBytes", free, "totalBytes", total)
	return true
}

// canDestage reports whether a batch is due and may go. maintainMu must be held.
func (s *Store) canDestage() bool {
	parts, _ := s.chooseBatch()
	for _, part := range parts {
		s.releaseSegment(part.segment)
	}
	return len(parts) > 0
}

func (x *shortage) notePoint() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stats.PointsGivenUp++
}
