package journal

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// SurvivorReader yields what thinning has left of the records behind a position
// of the active path, on one timeline, in their order and with gaps between their
// seqs. Whoever has the state at the position gets that at a later one by applying
// the records up to it, if that is exact: a checkpoint that the reader has
// yielded, or the last record if the path leaves the timeline there.
//
// It holds off horizon and thinning as a RecordReader does. Where the journal is
// strained and a rewrite goes on all the same, the reader may go on with the new segments
// behind old ones. That changes nothing: whatever a coarser tier keeps, all before
// have kept, so what it has yielded is more than is needed and never less. Its
// methods are for one goroutine.
type SurvivorReader struct {
	s        *Store
	hold     *hold
	timeline TimelineID
	passed   Seq // of the newest record, or all that is known not to be there
	end      Seq // where the path leaves the timeline, or its tip
	interval time.Duration
	bytes    int64
	seg      *segment
	scanner  *frameScanner
}

// Survivors begins behind a position of the active path where a RecordReader ends
// with ErrThinned. Records up to the seq through are left out, because they have been
// yielded before; 0 leaves out none. ErrHorizon if what follows is not in the journal, ErrDiverged and
// ErrUnknownPosition as Records; ErrDiverged also if the path does not lead through that seq.
func (s *Store) Survivors(after Position, through Seq) (*SurvivorReader, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	path, err := s.pathOverLocked(after)
	if err != nil {
		return nil, fmt.Errorf("read what is left behind %s: %w", after, err)
	}
	r := &SurvivorReader{s: s, timeline: after.Timeline, passed: max(after.Seq, through), end: after.Seq, interval: pinsOnly}
	for _, run := range path {
		if next := after.Seq + 1; next >= run.First && next <= run.Last {
			r.timeline, r.end = run.Timeline, run.Last
		}
	}
	if r.passed > r.end {
		return nil, fmt.Errorf("read what is left behind %s: seq %d is not on the path: %w", after, through, ErrDiverged)
	}
	for _, part := range s.partsLocked(path) {
		if part.thinned == 0 || part.upTo <= r.passed {
			continue
		}
		r.bytes += part.end - blockBytes
		if part.timeline == r.timeline {
			r.interval = min(r.interval, part.thinned)
		}
	}
	r.hold = s.addHold(hold{at: after, yields: true})
	return r, nil
}

// Timeline is that of all records that the reader yields. It is another one than
// the position's where the path forks there.
func (r *SurvivorReader) Timeline() TimelineID { return r.timeline }

// Interval is the finest to which what the reader yields was thinned; the longest
// that there is for what pins alone have kept.
func (r *SurvivorReader) Interval() time.Duration { return r.interval }

// RemainingBytes bounds what was left, by thinning, of the records on the whole
// path behind where the reader began, on later timelines too.
func (r *SurvivorReader) RemainingBytes() int64 { return r.bytes }

// Next returns the next record, which is durable: it does not wait, but once for
// damage to be repaired. The payload is valid until the following call.
// io.EOF where the path leaves the timeline, or records follow without gaps.
// ErrHorizon, ErrDiverged, ErrCorrupt, ErrPoisoned, ErrClosed.
func (r *SurvivorReader) Next() (Record, error) {
	for waited := false; ; {
		if r.seg == nil {
			if err := r.enter(); err != nil {
				return Record{}, err
			}
		}
		f, err := r.scanner.scan()
		err = r.s.asDamage(err)
		switch {
		case errors.Is(err, io.EOF):
			// The path may leave the timeline within the segment, of which nothing is left
			// behind that.
			r.passed = max(r.passed, min(r.seg.last, r.end))
			r.leave()
			continue
		case errors.Is(err, ErrCorrupt) && !waited:
			waited = true
			if r.s.awaitRepair(err) {
				r.scanner = newFrameScanner(r.seg, r.seg.end)
				continue
			}
		}
		switch {
		case err != nil:
			return Record{}, fmt.Errorf("read what is left behind seq %d: %w", r.passed, err)
		case f.Position.Seq > r.end:
			return Record{}, io.EOF
		case f.Position.Seq > r.passed:
			r.passed = f.Position.Seq
			return f.Record, nil
		}
	}
}

// enter moves the reader to the segment that has what follows.
func (r *SurvivorReader) enter() error {
	s := r.s
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return err
	}
	path, err := s.tree.path(s.state.Base, s.tipLocked())
	if err != nil {
		return err
	}
	r.end = 0
	for _, run := range path {
		if run.Timeline == r.timeline {
			r.end = run.Last
		}
	}
	if r.end < r.passed {
		return fmt.Errorf("read what is left behind seq %d: %w", r.passed, ErrDiverged)
	}
	if r.passed == r.end {
		return io.EOF
	}
	g := s.segmentOfLocked(Position{r.timeline, r.passed + 1})
	if g == nil {
		return fmt.Errorf("read what is left behind seq %d: %w", r.passed, ErrHorizon)
	}
	if g.thinned == 0 {
		return io.EOF
	}
	g.users.Add(1)
	r.seg, r.scanner = g, newFrameScanner(g, g.end)
	return nil
}

func (r *SurvivorReader) leave() {
	if r.seg != nil {
		r.s.releaseSegment(r.seg)
		r.seg = nil
	}
}

// Close releases what the reader holds.
func (r *SurvivorReader) Close() {
	r.leave()
	r.s.dropHold(r.hold)
}
