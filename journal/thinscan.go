package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// survivor is a frame that a rewrite keeps.
type survivor struct {
	part  int // of the job's
	off   int64
	bytes int64 // of the frame
	seq   Seq
	kind  Kind
}

// payloadBytes is the length of the payload, or a little more.
func (v *survivor) payloadBytes() int64 { return v.bytes - frameHeaderBytes }

// frameHead is what thinning has to know of a frame.
type frameHead struct {
	survivor
	start, end uint64 // sectors; equal if it changes none
}

// survivors finds the frames that a job keeps, in their order. A record behind the
// last exact position is kept; one before it is kept if some sector of it is
// not written again up to the next exact position. So the parts are read
// backwards, with the sectors that were seen since an exact position.
func (s *Store) survivors(ctx context.Context, job *thinJob) ([]survivor, error) {
	pace := s.newThinPacer()
	var newestFirst []survivor
	seen, next := newCoverage(), len(job.exact)-1 // the exact position at or behind the record
	var done, bytes int64
	for i := range job.parts {
		bytes += job.parts[i].end
	}
	for i := len(job.parts) - 1; i >= 0; i-- {
		s.noteThinning(bytes, done)
		done += job.parts[i].end
		heads, err := s.readHeads(ctx, job, i, pace)
		if err != nil {
			return nil, err
		}
		for _, h := range slices.Backward(heads) {
			if h.seq > job.upTo() {
				newestFirst = append(newestFirst, h.survivor)
				continue
			}
			for next > 0 && h.seq <= job.exact[next-1] {
				next--
				seen = newCoverage()
			}
			if h.survives(job, seen) {
				newestFirst = append(newestFirst, h.survivor)
			}
		}
	}
	slices.Reverse(newestFirst)
	return newestFirst, nil
}

func (h *frameHead) survives(job *thinJob, seen *coverage) bool {
	fresh := h.end > h.start && seen.add(h.start, h.end)
	switch {
	case h.kind == KindResize, job.parts[h.part].changesSize(h.seq):
		return true
	case h.kind == KindCheckpoint:
		return job.keeps(h.seq)
	}
	return fresh
}

// changesSize reports whether a record is one that the volume grew with.
func (g *segment) changesSize(seq Seq) bool {
	return slices.ContainsFunc(g.sizes, func(c sizeChange) bool { return c.Seq == seq })
}

// readHeads lists the frames of a part. Their headers are verified, and not
// their payloads.
func (s *Store) readHeads(ctx context.Context, job *thinJob, part int, pace *pacer) ([]frameHead, error) {
	p := &job.parts[part]
	scanner := newFrameScanner(p.segment, p.end)
	scanner.headersOnly = true
	var heads []frameHead
	for {
		f, err := scanner.scan()
		if errors.Is(err, io.EOF) {
			if scanner.next <= p.last && p.thinned == 0 {
				return nil, &CorruptError{File: p.name, Offset: scanner.off, What: "segment", Wanted: fmt.Sprintf("records up to seq %d", p.last), Found: fmt.Sprintf("end at seq %d", scanner.next-1)}
			}
			return heads, nil
		}
		if err != nil {
			return nil, err
		}
		h := frameHead{survivor: survivor{part: part, off: f.off, bytes: scanner.off - f.off, seq: f.Position.Seq, kind: f.Kind}}
		switch f.Kind {
		case KindWrite, KindDiscard, KindZero:
			h.start, h.end = uint64(f.Offset)/SectorBytes, uint64(f.Offset+f.Length)/SectorBytes
		}
		heads = append(heads, h)
		if err := s.stepThin(ctx, pace, h.bytes); err != nil {
			return nil, err
		}
	}
}

// newThinPacer makes thinning rest as destage does. Nobody waits for it.
func (s *Store) newThinPacer() *pacer {
	pace := s.newPacer()
	pace.hurry, pace.duty = nil, func() float64 { return max(minThinDuty, s.duty()) }
	return pace
}

// minThinDuty is the part of the time in which is thinned while the volume is in
// use. More than destage has at least: what is due comes as fast as what is
// written, and each record is read twice.
const minThinDuty = 0.2

// stepThin counts bytes that were read or written, and rests if it is time to.
// ErrClosed when Close waits, errThinLater when space has run short.
func (s *Store) stepThin(ctx context.Context, pace *pacer, bytes int64) error {
	switch {
	case s.closing.Load():
		return ErrClosed
	case s.pressed.Load():
		return errThinLater
	}
	return pace.did(ctx, bytes)
}
