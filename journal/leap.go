package journal

import (
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// A leap takes a replica over history that its source has thinned: from its tip
// to a position that the source has kept, at once. What is between is received as the
// records that survived there, into segments of their own that the catalog does
// not name. They are those of a thinned history, and become part of the
// store, all of them, in one transaction. Before it the store is as it was, and
// the next Open removes their files. One leap at a time; it ends with EndLeap, with anything else
// that moves the tip, and with the store. Everything here needs appendMu.

// leap is what was received so far.
type leap struct {
	from     Position // the tip when it began
	through  Seq      // of the newest record
	newest   Kind     // of that record
	point    time.Time
	interval time.Duration
	size     int64 // of the volume, behind the newest record
	segments []*segment
	writer   *leapWriter // of the last of them; nil: it is complete, or there is none
}

// BeginLeap begins a leap from the tip. interval is that to which the records
// that follow were thinned. One that was under way is given up. ErrRange,
// ErrPoisoned, ErrClosed.
func (s *Store) BeginLeap(interval time.Duration) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if interval <= 0 {
		return fmt.Errorf("begin leap: interval %s: %w", interval, ErrRange)
	}
	s.dropLeap()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return err
	}
	tip := s.tipLocked()
	s.leap = &leap{from: tip, through: tip.Seq, interval: interval, size: s.tipBytes}
	return nil
}

// Leap tells from where a leap is under way and through which seq it was received;
// ok is false if there is none.
func (s *Store) Leap() (from Position, through Seq, ok bool) {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if s.leap == nil || s.Err() != nil {
		return Position{}, 0, false
	}
	return s.leap.from, s.leap.through, true
}

// AppendLeap adds records to the leap: of the tip's timeline, behind those that it
// has, in their order, with gaps. They are not visible, and not durable, before EndLeap.
// Nothing of the records is kept. An error gives the leap up: ErrGap for
// records that do not follow, or without a leap, ErrCorrupt, ErrFull, ErrPoisoned.
func (s *Store) AppendLeap(records []Record) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	for i := range records {
		if err := s.addToLeap(&records[i]); err != nil {
			s.dropLeap()
			if errors.Is(err, ErrFull) {
				s.noteRefused()
			}
			return fmt.Errorf("add record %s to leap: %w", records[i].Position, err)
		}
	}
	return nil
}

func (s *Store) addToLeap(r *Record) error {
	if err := s.Err(); err != nil {
		return err
	}
	l := s.leap
	if l == nil || r.Position.Timeline != l.from.Timeline || r.Position.Seq <= l.through {
		return ErrGap
	}
	if err := r.verify(); err != nil {
		return err
	}
	if l.writer != nil && !l.writer.fits(r, l.size) {
		if err := l.complete(r.Position.Seq-1, s.cfg.Clock.Now()); err != nil {
			return err
		}
	}
	if l.writer == nil {
		if err := s.beginLeapSegment(r); err != nil {
			return err
		}
	}
	if err := l.writer.add(r, l.size); err != nil {
		return err
	}
	if r.Kind == KindCheckpoint {
		l.point = r.Time()
	}
	l.through, l.newest, l.size = r.Position.Seq, r.Kind, sizeAfter(r, l.size)
	return nil
}

// beginLeapSegment makes the file for a record and those behind it. Its id is
// higher than those of the segments that are ready for appends, which are therefore
// given back: ids rise along each timeline.
func (s *Store) beginLeapSegment(r *Record) error {
	l := s.leap
	first := l.from.Seq + 1
	if n := len(l.segments); n > 0 {
		first = l.segments[n-1].last + 1
	}
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if err := s.dropReady(); err != nil {
		return err
	}
	id := s.nextID
	if id > maxSegmentID {
		return fmt.Errorf("make segment %d: %w", id, ErrFull)
	}
	g := &segment{
		id: id, volume: s.volume, timeline: r.Position.Timeline, first: first, end: blockBytes,
		name: rewrittenName(id, 1), generation: 1, thinned: l.interval, sealed: true,
	}
	g.users.Store(1)
	var err error
	if g.file, err = s.cfg.FS.Create(s.cfg.file(g.name)); err != nil {
		return fmt.Errorf("make segment %s: %w", g.name, mapFull(err))
	}
	s.nextID++
	s.tookSegment.Store(true)
	l.segments = append(l.segments, g)
	l.writer = newLeapWriter(s, g, l.from.Seq)
	return nil
}

// complete makes the present segment durable; it stands for all up to a seq.
func (l *leap) complete(last Seq, now time.Time) error {
	w := l.writer
	w.g.last = last
	if err := w.finish(now); err != nil {
		return err
	}
	l.writer = nil
	return nil
}

// EndLeap makes the records of the leap the store's. The last of them must be end, and
// that be exact at the source: a checkpoint; or the position at which the
// timeline line, which is unknown here, forks from the leap's, and which is then
// active. Else line is nil. Durable on return, tip and all. An error gives the leap
// up and leaves the store as it was: ErrGap where the leap does not end there, ErrDiverged for a timeline
// that does not fork there or is known, ErrFull, ErrPoisoned.
func (s *Store) EndLeap(end Position, line *Timeline) error {
	patient := s.impatience()
	s.maintainMu.Lock()
	patient()
	defer s.maintainMu.Unlock()
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	defer s.dropLeap()
	err := s.checkLeap(end, line)
	if err == nil {
		err = s.leap.complete(end.Seq, s.cfg.Clock.Now())
	}
	if err == nil {
		err = s.land(end, line)
	}
	if err != nil {
		return fmt.Errorf("leap to %s: %w", end, err)
	}
	wake(s.wakeRuns)
	wake(s.wakeThin)
	s.wakeRun()
	return nil
}

func (s *Store) checkLeap(end Position, line *Timeline) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return err
	}
	l := s.leap
	switch {
	case l == nil || l.writer == nil || end != (Position{l.from.Timeline, l.through}):
		return ErrGap
	case line == nil && l.newest != KindCheckpoint:
		return ErrGap
	case line == nil:
		return nil
	case line.ID == 0 || line.Parent != end || s.tree.timelines[line.ID].ID != 0:
		return ErrDiverged
	}
	return nil
}

// land enters the leap's segments, which are durable, behind the tip.
func (s *Store) land(end Position, line *Timeline) error {
	l := s.leap
	if err := s.cfg.FS.SyncDir(s.cfg.file(journalDir)); err != nil {
		return s.poison(err)
	}
	// What was appended before is sealed, so that nothing on the timeline is
	// looked for behind the leap.
	if err := s.syncJournal(); err != nil {
		return err
	}
	s.retireActive()
	if err := s.sealPending(); err != nil {
		return err
	}
	if err := s.grow(l.size); err != nil {
		return err
	}
	for _, g := range l.segments {
		g.closedAt = s.leftAt(l)
	}
	index, size, err := s.indexBehind(l.from, l.segments)
	if err != nil {
		return err
	}
	if err := s.enterLeap(index, size, end, line); err != nil {
		s.releaseStack(index.stack)
		return err
	}
	s.forkFirst = true // its records are another site's to make
	return nil
}

// leftAt is when the leap's records were appended at the source, or nearly: that
// of its last checkpoint, so that they leave the window when they do there.
func (s *Store) leftAt(l *leap) time.Time {
	now := s.cfg.Clock.Now()
	if l.point.IsZero() || l.point.After(now) {
		return now
	}
	return l.point
}

// enterLeap is the step at which the leap has come about.
func (s *Store) enterLeap(index *liveIndex, size int64, end Position, line *Timeline) error {
	l := s.leap
	var replaced *stack
	err := s.changeState(
		func(next *catalogState) {
			next.CleanTip = nil
			if line != nil {
				next.Active = line.ID
			}
		},
		func(tx kv.Tx) error {
			for _, g := range l.segments {
				if err := s.cat.saveSegment(tx, g.id, g.entry(g.snapshot())); err != nil {
					return err
				}
			}
			if line == nil {
				return nil
			}
			return s.cat.saveTimeline(tx, *line)
		},
		func() {
			for _, g := range l.segments {
				s.segments[g.id] = g
			}
			s.tree.last[end.Timeline] = end.Seq
			if line != nil {
				s.tree.add(*line)
			}
			replaced = s.index.stack
			s.index, s.tipBytes = index, size
			s.leap = nil
			s.forks++
			s.durable = s.tipLocked()
			s.durableSeq.Store(uint64(s.durable.Seq))
			s.announceLocked()
		})
	s.releaseStack(replaced)
	return err
}

// dropLeap gives up a leap, if one is under way. After a failure of the store its
// files stay, because the catalog may name them; the next Open knows.
func (s *Store) dropLeap() {
	l := s.leap
	if l == nil {
		return
	}
	s.leap = nil
	failed := s.Err() != nil
	for _, g := range l.segments {
		_ = g.file.Close()
		if !failed {
			_ = s.cfg.FS.Remove(s.cfg.file(g.name)) // a leftover is found by the next Open
		}
	}
}
