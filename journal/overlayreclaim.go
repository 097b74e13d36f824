package journal

import (
	"context"
	"fmt"
)

// Nobody asks an overlay for any position but its newest. So what was overwritten
// can be given back: what is left of the oldest segment is appended once more, is
// made durable, and the segment is dropped. Base and horizon move to its end. A
// crash before the drop leaves bytes twice, which are the same.

const (
	// deadPart is what part of an overlay's journal has to be overwritten before
	// it is worth the while: to free a segment, so many are written at most.
	deadPart = 8
	// freedPart is how much is freed in one go.
	freedPart = 16
	// zeroChunk is how much of an extent of zeroes is looked up in one go.
	zeroChunk = 16 << 20
)

// reclaimOverlay frees what was overwritten and returns how many bytes of segments
// that were; 0 if it is not worth the while.
func (s *Store) reclaimOverlay(ctx context.Context) (freed int64, err error) {
	patient := s.impatience()
	s.maintainMu.Lock()
	patient()
	defer s.maintainMu.Unlock()
	s.mu.RLock()
	appended := s.appended
	s.mu.RUnlock()
	if s.futile && s.futileAt == appended {
		return 0, nil
	}
	if err := s.sealPending(); err != nil {
		return 0, err
	}
	dead, total, err := s.overwrittenBytes()
	if err != nil {
		return 0, err
	}
	if s.futile, s.futileAt = dead < max(2*s.cfg.SegmentBytes, total/deadPart), appended; s.futile {
		return 0, nil
	}
	goal := min(dead/2, max(s.cfg.SegmentBytes, total/freedPart))
	newest := s.newestSealed()
	for freed < goal {
		more, err := s.renewOldest(ctx, newest)
		if err != nil || !more {
			return freed, err
		}
		freed = total - s.Stats().JournalBytes
	}
	return freed, nil
}

// overwrittenBytes compares what the segments take with what of them can be seen.
func (s *Store) overwrittenBytes() (dead, total int64, err error) {
	v, err := s.View(s.Tip())
	if err != nil {
		return 0, 0, err
	}
	defer v.Close()
	total = s.Stats().JournalBytes
	var live int64
	err = v.with(func(st *stack) error {
		live = 0
		return st.lookup(0, uint64(v.size)/SectorBytes, func(e extent) bool {
			live += frameHeaderBytes
			if !e.loc.isZeroes() {
				live += int64(e.sectors()) * SectorBytes
			}
			return true
		})
	})
	return total - live, total, err
}

// renewOldest appends what is left of the oldest segment and drops it; false if it
// cannot go, because it came after newest, or is held.
func (s *Store) renewOldest(ctx context.Context, newest segmentID) (more bool, err error) {
	part, ok := s.oldestToRenew(newest)
	if !ok {
		return false, nil
	}
	defer s.releaseSegment(part.segment)
	extents, err := part.tableUpTo(part.segmentSnapshot, part.upTo)
	if err != nil {
		return false, err
	}
	buf := make([]byte, MaxPayloadBytes)
	for _, e := range extents {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if e.loc.isZeroes() && len(buf) < zeroChunk && int64(e.sectors())*SectorBytes > MaxPayloadBytes {
			buf = make([]byte, zeroChunk) // its pages are never touched
		}
		chunk := int64(MaxPayloadBytes)
		if e.loc.isZeroes() {
			chunk = int64(len(buf))
		}
		for off, end := int64(e.start())*SectorBytes, int64(e.end())*SectorBytes; off < end; off += chunk {
			if err := s.appendAgain(part.segment, buf[:min(chunk, end-off)], off, e.loc.isZeroes()); err != nil {
				return false, fmt.Errorf("renew what is left of %s: %w", part.name, err)
			}
		}
	}
	if err := s.syncJournal(); err != nil {
		return false, err
	}
	if err := s.dropBatch([]pathPart{part}, Position{part.timeline, part.upTo}, nil, nil); err != nil {
		return false, err
	}
	s.pruneRuns()
	if err := s.refreshLive(); err != nil {
		return false, fmt.Errorf("let go of %s: %w", part.name, err)
	}
	return true, nil
}

// newestSealed is the last segment that one reclaim looks at.
func (s *Store) newestSealed() (newest segmentID) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, g := range s.segments {
		if g.sealed {
			newest = max(newest, id)
		}
	}
	return newest
}

// oldestToRenew returns the oldest segment of the path, held.
func (s *Store) oldestToRenew(newest segmentID) (pathPart, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	path, err := s.tree.path(s.state.Base, s.tipLocked())
	if err != nil {
		return pathPart{}, false
	}
	parts := s.partsLocked(path)
	if len(parts) == 0 {
		return pathPart{}, false
	}
	part := parts[0]
	if !part.sealed || part.id > newest || s.isHeldLocked(Position{part.timeline, part.upTo}) {
		return pathPart{}, false
	}
	part.users.Add(1)
	return part, true
}

// appendAgain appends what is still seen of a segment in the range of p at off, in
// one step: nobody appends between the look and the append. Of zeroes it is not known
// which segment they are of, and those of a newer one are zeroes as well.
func (s *Store) appendAgain(g *segment, p []byte, off int64, zeroes bool) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	s.renewing = true
	defer func() { s.renewing = false }()
	ps := piecesPool.Get().(*pieces)
	defer piecesPool.Put(ps)
	if err := s.planHealed(ps, p, off); err != nil {
		return err
	}
	defer s.finish(ps)
	for i := range ps.list {
		x := &ps.list[i]
		r := Record{Offset: x.at, Length: int64(len(x.dst))}
		switch {
		case zeroes && x.nil:
			r.Kind = KindDiscard
		case !zeroes && x.g == g:
			if err := s.readJournal(&ps.scratch, x); err != nil {
				return err
			}
			r.Kind, r.Payload, r.PayloadCRC = KindWrite, x.dst, PayloadChecksum(x.dst)
		default:
			continue
		}
		if _, err := s.appendLocal(&r); err != nil {
			return err
		}
	}
	return nil
}
