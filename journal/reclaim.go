package journal

import (
	"context"
	"errors"
	"fmt"
)

// Reclaim gives up what a write needs the room of, because the backing volume
// has none left, and no more than that: see makeRoom for the order. It returns
// the bytes of journal that were let go of; 0 also means that nothing could be,
// or that another call has just made room. Where the last call was in vain and
// nothing has changed since, it does nothing. An overlay has no history to give up:
// it gives back what was overwritten.
func (s *Store) Reclaim(ctx context.Context) (int64, error) {
	if s.isOverlay() {
		freed, err := s.reclaimOverlay(ctx)
		if err != nil {
			err = fmt.Errorf("reclaim what was overwritten in overlay %s: %w", s.volume, err)
		}
		return freed, err
	}
	turn := s.reclaims.Load()
	patient := s.impatience()
	defer patient()
	s.maintainMu.Lock()
	defer s.maintainMu.Unlock()
	if s.reclaims.Load() != turn {
		return 0, nil
	}
	s.needed = true
	freed, err := s.makeRoom(ctx)
	if err != nil {
		return freed, fmt.Errorf("reclaim journal space of volume %s: %w", s.volume, err)
	}
	return freed, nil
}

// roomBatchSegments bounds a batch of history that is given up for room: what is
// kept for reuse of it is enough for a while, and no more is given up than that.
const roomBatchSegments = keepFree

// makeRoom has the segment ready that the next append needs. For that it gives
// up, in this order and no more than needed:
//
//  1. files that are kept for reuse, which are taken first anyway;
//  2. index runs that nobody is using, which are made again later;
//  3. the oldest history that nobody holds. What the base has to grow for that
//     is taken from the reserve (see prepareReserve), and a segment at a time
//     if need be;
//  4. what KeepPoint keeps, and the history that is there for it;
//  5. the history that a replica has yet to read, which then takes an image.
//
// Views, pins and what they hold are never given up: somebody has asked for them
// by name. ErrFull is not an error here. maintainMu must be held.
func (s *Store) makeRoom(ctx context.Context) (freed int64, err error) {
	if s.isOverlay() || s.hopeless() != nil {
		return 0, nil
	}
	defer s.reclaims.Add(1)
	before := s.Stats().JournalBytes
	s.pressed.Store(true)
	s.batchLimit = roomBatchSegments
	defer func() {
		s.pressed.Store(false)
		s.lastResort.Store(false)
		s.batchLimit = 0
		freed = before - s.Stats().JournalBytes
		s.noteGivenUp(freed)
	}()
	if err := s.sealForRoom(); err != nil {
		return 0, err
	}
	if s.appendFull.Swap(false) { // there is a segment, and no room to write to it
		s.giveUpReserve()
		for _, giveUp := range []func(context.Context) (bool, error){s.giveUpRuns, s.giveUpPoint} { // which begins with other history, if there is any
			if _, err := giveUp(ctx); err != nil {
				return 0, err
			}
		}
	}
	lack := s.prepareReady()
	for _, giveUp := range []func(context.Context) (bool, error){s.giveUpRuns, s.giveUpHistory, s.giveUpPoint, s.giveUpUnread} {
		for errors.Is(lack, ErrFull) {
			gained, err := giveUp(ctx)
			if err != nil {
				return 0, err
			}
			if !gained {
				break
			}
			lack = s.prepareReady()
		}
	}
	if errors.Is(lack, ErrFull) {
		s.inVain(lack)
		return 0, nil
	}
	return 0, lack
}

// sealForRoom seals what is complete, so that it can be destaged. Where the
// catalog had no room for a commit it gets that of the reserve, and takes what it
// needs of it at once, before a new reserve does.
func (s *Store) sealForRoom() error {
	err := s.sealPending()
	if s.catalogFull.Load() && s.giveUpReserve() {
		if err := s.changeState(func(*catalogState) {}, nil, nil); err != nil && !errors.Is(err, ErrFull) {
			return err
		}
		err = s.sealPending()
	}
	if errors.Is(err, ErrFull) {
		return nil // what is sealed already may do
	}
	return err
}

// giveUpRuns is the second sacrifice.
func (s *Store) giveUpRuns(context.Context) (gained bool, err error) {
	return s.runs.giveUpUnused() > 0, nil
}

// giveUpHistory is the third one: a batch of it.
func (s *Store) giveUpHistory(ctx context.Context) (gained bool, err error) {
	gained, err = s.destageTightly(ctx, false)
	if errors.Is(err, ErrFull) {
		return false, nil
	}
	return gained, err
}

// giveUpUnread is the fifth one: a batch, readers or no readers, which may have stood
// before the point that is kept.
func (s *Store) giveUpUnread(ctx context.Context) (gained bool, err error) {
	s.lastResort.Store(true)
	return s.giveUpPoint(ctx)
}

// destageTightly is destageBatch where there may be no room for what the base
// has to grow: then the reserve is given up, and a segment moved at a time,
// which leaves its file for the next reserve. maintainMu must be held.
func (s *Store) destageTightly(ctx context.Context, verify bool) (more bool, err error) {
	for {
		more, err = s.destageBatch(ctx, verify)
		if !errors.Is(err, ErrFull) {
			return more, err
		}
		s.noteShort()
		gained := s.giveUpReserve() || !s.isTight()
		s.batchLimit = 1
		if !gained {
			return false, err
		}
	}
}

// isTight reports whether destage has no room for more than a segment at a time.
// maintainMu must be held.
func (s *Store) isTight() bool { return s.batchLimit == 1 }

// A store whose journal is beside its base keeps one of the files for reuse for
// the time when the file system is full: before a segment can be dropped what
// it holds has to be in the base, and a base that was not written there before
// takes room for it. Without, a journal that has filled the file system could
// never be made smaller again.

// reserved is how many of the files for reuse an append does not get.
func (s *Store) reserved() int {
	if s.cfg.JournalDir != "" || s.isOverlay() || s.copies.Load() {
		return 0
	}
	return 1
}

// prepareReserve makes the reserve of a store that has begun its second segment.
// spareMu must be held.
func (s *Store) prepareReserve() error {
	if len(s.free) >= s.reserved() {
		return nil
	}
	s.mu.RLock()
	begun := len(s.segments) > 1
	s.mu.RUnlock()
	if !begun {
		return nil
	}
	g, err := s.makeSegment(s.cfg.SegmentBytes, false, false)
	if err != nil {
		return err
	}
	s.free = append(s.free, g.name)
	if err := g.file.Close(); err != nil {
		return fmt.Errorf("close reserve %s: %w", g.name, err)
	}
	return nil
}

// giveUpReserve removes all files for reuse; false if there are none.
func (s *Store) giveUpReserve() (gained bool) {
	if s.cfg.JournalDir != "" && !s.copies.Load() {
		return false // it would make no room for the base or the catalog, and an append takes them anyway
	}
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if s.isClosed() { // the files are a successor's
		return false
	}
	if err := s.dropReadyBehind(1); err != nil {
		s.cfg.Log.Warn("giving back what was ready", "volume", s.volume, "error", err)
	}
	for _, name := range s.free {
		gained = s.removeReusable(name) || gained
	}
	s.free = nil
	return gained
}

// noteCopies remembers that a write to a file whose blocks are there found no
// room: the file system puts it elsewhere. Files that are kept for reuse only
// take room on such a one.
func (s *Store) noteCopies() {
	s.copies.Store(true)
	s.appendFull.Store(true)
	s.noteRefused()
}
