package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// RecordReader yields the durable records of the active path in order. It
// keeps the horizon from passing its position until Close, unless the journal
// has grown to twice its budget or its space has run out: Next then returns
// ErrHorizon. Its methods are for one goroutine.
type RecordReader struct {
	s       *Store
	at      Position // of the last record that was returned
	forks   uint64   // Store.forks that path belongs to
	path    Path
	hold    *hold
	seg     *segment
	scanner *frameScanner
}

// Records begins behind a position of the active path. ErrHorizon if what
// follows it is no longer in the journal, or not all of it; that is ErrThinned, too, if
// Survivors has what is left. ErrDiverged if the position is known
// but not on the path, ErrUnknownPosition if it is not known.
func (s *Store) Records(after Position) (*RecordReader, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	r := &RecordReader{s: s, at: after}
	if err := r.replanLocked(); err != nil {
		return nil, fmt.Errorf("read records after %s: %w", after, err)
	}
	r.hold = s.addHold(hold{at: after, yields: true})
	return r, nil
}

// replanLocked finds the active path that leads on from the position.
func (r *RecordReader) replanLocked() error {
	s := r.s
	path, err := s.pathOverLocked(r.at)
	if err != nil {
		return err
	}
	for _, run := range path {
		if next := (Position{run.Timeline, r.at.Seq + 1}); next.Seq >= run.First && next.Seq <= run.Last {
			if g := s.segmentOfLocked(next); g != nil && g.thinned > 0 {
				return errThinnedRecords
			}
		}
	}
	r.path, r.forks = path, s.forks
	return nil
}

// pathOverLocked is the active path, if it leads over a position.
func (s *Store) pathOverLocked(at Position) (Path, error) {
	path, err := s.tree.path(s.state.Horizon, s.tipLocked())
	if err != nil || path.Contains(at) {
		return path, err
	}
	if !s.tree.has(at) {
		return nil, ErrUnknownPosition
	}
	if _, err := s.tree.path(s.state.Horizon, at); err != nil {
		return nil, err
	}
	return nil, ErrDiverged
}

// errThinnedRecords: records that a reader is to yield are not all there.
var errThinnedRecords = fmt.Errorf("records were thinned out: %w: %w", ErrThinned, ErrHorizon)

// Next waits for the next durable record and returns it. The payload is valid
// until the following call. ErrDiverged when the active timeline has left the
// reader's position behind, ErrHorizon when the horizon has, ErrCorrupt,
// ErrPoisoned, ErrClosed, or ctx's error.
func (r *RecordReader) Next(ctx context.Context) (Record, error) {
	for {
		ready, changed, err := r.step()
		if err != nil {
			return Record{}, fmt.Errorf("read record after %s: %w", r.at, err)
		}
		if ready {
			return r.read()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		}
	}
}

// Ready reports whether Next would return a record without waiting.
func (r *RecordReader) Ready() bool {
	ready, _, err := r.step()
	return ready && err == nil
}

// step makes sure that the scanner stands in the segment of the next record,
// if that one is durable.
func (r *RecordReader) step() (ready bool, changed <-chan struct{}, err error) {
	old := r.seg
	r.s.mu.RLock()
	ready, changed, err = r.stepLocked()
	r.s.mu.RUnlock()
	if old != nil && old != r.seg {
		r.s.releaseSegment(old)
	}
	return ready, changed, err
}

func (r *RecordReader) stepLocked() (ready bool, changed <-chan struct{}, err error) {
	s := r.s
	if err := s.usable(); err != nil {
		return false, nil, err
	}
	if r.forks != s.forks {
		err := r.replanLocked()
		if errors.Is(err, ErrUnknownPosition) {
			// It was known: a horizon that did not wait for the reader has taken
			// the whole timeline away.
			err = ErrHorizon
		}
		if err != nil {
			return false, nil, err
		}
	}
	next := r.at.Seq + 1
	if next > s.durable.Seq {
		return false, s.changed, nil
	}
	line := s.state.Active // unless an earlier run of the path has the record
	for _, run := range r.path[:len(r.path)-1] {
		if next >= run.First && next <= run.Last {
			line = run.Timeline
		}
	}
	if r.seg == nil || r.seg.timeline != line || next < r.seg.first || next > r.seg.last {
		return true, nil, r.enterLocked(line, next)
	}
	r.scanner.limit = r.seg.end
	return true, nil, nil
}

// enterLocked moves the reader to the segment that holds a record.
func (r *RecordReader) enterLocked(line TimelineID, next Seq) error {
	for _, g := range r.s.lineLocked(line) {
		if next >= g.first && next <= g.last {
			if g.thinned > 0 {
				return errThinnedRecords
			}
			g.users.Add(1)
			r.seg = g
			r.scanner = newFrameScanner(g, g.end)
			return nil
		}
	}
	return ErrHorizon
}

// read scans forward to the next record. Damage is waited for once to be repaired.
func (r *RecordReader) read() (Record, error) {
	for waited := false; ; {
		f, err := r.scanner.scan()
		err = r.s.asDamage(err)
		if errors.Is(err, ErrCorrupt) && !waited {
			if waited = true; r.s.awaitRepair(err) {
				r.scanner = newFrameScanner(r.seg, r.scanner.limit)
				continue
			}
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Record{}, fmt.Errorf("read record after %s: %w", r.at, err)
		}
		if f.Position.Seq == r.at.Seq+1 {
			r.at = f.Position
			r.s.moveHold(r.hold, r.at)
			return f.Record, nil
		}
	}
}

// Close releases what the reader holds.
func (r *RecordReader) Close() {
	if r.seg != nil {
		r.s.releaseSegment(r.seg)
		r.seg = nil
	}
	r.s.dropHold(r.hold)
}
