package replication

import (
	"errors"
	"fmt"
	"io"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// leapTargetBytes is from where on a leap ends at the next position that the
// source has kept. What is between two of those is sent as one leap however much it is.
const leapTargetBytes = 64 << 20

// leapSource is the part of a source that takes its replica over thinned history.
// One leap leads to a checkpoint that was kept, or to where the path forks.
type leapSource struct {
	reader  SurvivorReader
	from    journal.Position
	through journal.Seq // the replica has what survives up to here; 0: nothing
	started bool
	whole   bool           // last is where the leap ends
	last    journal.Record // the newest that is in a batch; no payload
	sent    int64          // bytes, since from as far as this stream knows
	point   int64          // time of the newest checkpoint among what was sent, ns
}

// beginLeap opens what is left of the records behind a position. through is
// that of the replica's partial leap, or 0; where it does not fit, the leap begins anew.
func (s *source) beginLeap(from journal.Position, through journal.Seq) error {
	l := &leapSource{from: from}
	if through > from.Seq {
		if err := s.resumeLeap(l, through); err != nil {
			return err
		}
	}
	if l.reader == nil {
		reader, err := s.store.Survivors(from, 0)
		if err != nil {
			return fmt.Errorf("read what is left behind %s: %w", from, err)
		}
		l.reader = reader
	}
	s.leap, s.last = l, from
	return nil
}

// resumeLeap reads the last record that the replica has once more, to know
// whether the leap may end there.
func (s *source) resumeLeap(l *leapSource, through journal.Seq) error {
	reader, err := s.store.Survivors(l.from, through-1)
	if errors.Is(err, journal.ErrDiverged) {
		return nil // it was on a part of the timeline that the path left
	}
	if err != nil {
		return fmt.Errorf("go on with the leap from %s: %w", l.from, err)
	}
	last, err := reader.Next()
	if err == nil && last.Position.Seq == through && last.Position.Timeline == l.from.Timeline {
		l.reader, l.through, l.last = reader, through, last
		l.last.Payload = nil
		return nil
	}
	reader.Close()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, journal.ErrDiverged) {
		return fmt.Errorf("go on with the leap from %s: %w", l.from, err)
	}
	return nil // thinned once more since
}

// nextOfLeap returns Forks to the leap's timeline, LeapStart, the batches, and
// LeapEnd, in this order.
func (s *source) nextOfLeap() (*replicationv1.SourceMessage, error) {
	l := s.leap
	if line := l.reader.Timeline(); s.timeline != line {
		return s.forkTo(line)
	}
	if !l.started {
		return s.startLeap(), nil
	}
	if !l.whole && len(s.carry) == 0 {
		if err := s.fetchOfLeap(); err != nil {
			return nil, err
		}
	}
	if l.whole {
		return s.endLeap()
	}
	if !s.credit.fits(int64(len(s.carry))) {
		return nil, errNoCredit
	}
	return s.leapBatch()
}

func (s *source) startLeap() *replicationv1.SourceMessage {
	l := s.leap
	l.started = true
	s.number++
	s.credit.spend(charge{number: s.number})
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_LeapStart{LeapStart: &replicationv1.LeapStart{
		Number: s.number, From: encodePosition(journal.Position{Timeline: s.timeline, Seq: l.from.Seq}), Through: uint64(l.through),
		Interval: int64(l.reader.Interval())}}}
}

// fetchOfLeap makes sure that carry holds a record, or that the leap is whole.
func (s *source) fetchOfLeap() error {
	l := s.leap
	r, err := l.reader.Next()
	if errors.Is(err, io.EOF) {
		l.whole = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what is left behind %s: %w", l.last.Position, err)
	}
	s.carry = r.AppendEncoded(s.carry[:0], s.store.Volume())
	s.carried = r
	s.carried.Payload = nil
	return nil
}

// leapBatch sends the carried record and those behind it that fit, up to where
// the leap ends.
func (s *source) leapBatch() (*replicationv1.SourceMessage, error) {
	l := s.leap
	b := s.newBatch()
	for {
		b.take(s)
		l.last = s.carried
		if s.carried.Kind == journal.KindCheckpoint {
			l.point = s.carried.Length
			l.whole = l.sent+int64(len(b.raw)) >= leapTargetBytes
		}
		if l.whole || len(b.raw) >= TargetBatchBytes {
			break
		}
		if err := s.fetchOfLeap(); err != nil {
			return nil, err
		}
		if total := int64(len(b.raw) + len(s.carry)); l.whole || total > MaxBatchBytes || !s.credit.grows(total) {
			break
		}
	}
	l.sent += int64(len(b.raw))
	b.ch.through, b.ch.checkpoint = journal.Position{}, 0 // nothing of it is there before the leap ends
	return s.sendBatch(b), nil
}

// endLeap says where the leap ends. Its ack carries that position. What follows is
// opened before the reader is closed, so that none of it leaves the journal meanwhile.
func (s *source) endLeap() (*replicationv1.SourceMessage, error) {
	l := s.leap
	at, through := l.last.Position, l.last.Position
	var fork *replicationv1.Timeline
	switch {
	case at.Timeline != s.timeline:
		return nil, fmt.Errorf("nothing is left behind %s: %w", l.from, journal.ErrDiverged)
	case l.last.Kind != journal.KindCheckpoint:
		t, err := s.forkAt(at)
		if err != nil {
			return nil, err
		}
		fork, s.timeline, through = encodeTimeline(t), t.ID, journal.Position{Timeline: t.ID, Seq: at.Seq}
	}
	defer l.reader.Close()
	s.leap, s.last = nil, at
	s.number++
	s.credit.spend(charge{number: s.number, through: through, checkpoint: l.point})
	s.broken = s.follow(at)
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_LeapEnd{LeapEnd: &replicationv1.LeapEnd{
		Number: s.number, At: encodePosition(at), Timeline: fork}}}, nil
}

// forkAt is the timeline of the path that forks at a position, where thinned history
// can be left although no checkpoint is there.
func (s *source) forkAt(at journal.Position) (journal.Timeline, error) {
	path := s.store.Path()
	for i, run := range path[:len(path)-1] {
		if run.Timeline == at.Timeline && run.Last == at.Seq {
			return childOf(s.store.Timelines(), at.Timeline, path[i+1].Timeline)
		}
	}
	return journal.Timeline{}, fmt.Errorf("leap cannot end at %s: %w", at, journal.ErrDiverged)
}

// follow opens what comes behind a leap: records, or another leap.
func (s *source) follow(at journal.Position) error {
	reader, err := s.store.Records(at)
	if errors.Is(err, journal.ErrThinned) {
		return s.beginLeap(at, 0)
	}
	if err != nil {
		return fmt.Errorf("read records behind %s: %w", at, err)
	}
	if s.reader != nil {
		s.reader.Close()
	}
	s.reader = reader
	return nil
}

// leapsOver reports whether what thinning has left behind a position is less than an
// image of everything.
func (s *source) leapsOver(after journal.Position) (bool, error) {
	reader, err := s.store.Survivors(after, 0)
	if err != nil {
		return false, fmt.Errorf("read what is left behind %s: %w", after, err)
	}
	left := reader.RemainingBytes()
	reader.Close()
	at := s.store.ImagePosition()
	view, err := s.store.View(at)
	if err != nil {
		return false, fmt.Errorf("open image at %s: %w", at, err)
	}
	defer view.Close() // only read, so that an error can lose nothing
	for off := int64(0); left > 0; {
		start, length, err := view.NextData(off)
		if err != nil {
			return false, fmt.Errorf("find data behind %d: %w", off, err)
		}
		if length == 0 {
			return false, nil
		}
		left -= length
		off = start + length
	}
	return true, nil
}
