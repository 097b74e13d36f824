package journal

import "fmt"

// The size of a volume at a position is the largest that a record on the path
// to it gave it: a resize, or one that reaches beyond. Sizes only grow along a
// path. The live volume may be larger than its tip: a fork to before a resize
// keeps the present size, because a device does not shrink under its file
// system. The first record that this site appends there then is a resize, so
// that every position behind it, here and on a replica, has the size at which
// it was written.

// sizeChange is a size that begins with a record.
type sizeChange struct {
	Seq   Seq
	Bytes int64
}

// maxSegmentSizes bounds the changes of size in one segment, and with them its
// entry in the catalog.
const maxSegmentSizes = 512

// sizeAfter returns the size behind a record that was appended to a volume of
// sizeBytes.
func sizeAfter(r *Record, sizeBytes int64) int64 {
	switch r.Kind {
	case KindWrite, KindDiscard, KindZero:
		return max(sizeBytes, r.Offset+r.Length)
	case KindResize:
		return max(sizeBytes, r.Length)
	}
	return sizeBytes
}

// noteSize adds an appended record's change of size, if it is one, and returns
// the size behind it. Beyond the bound, which only records of older programs
// reach, the two oldest changes become one.
func (g *segment) noteSize(r *Record, sizeBytes int64) int64 {
	after := sizeAfter(r, sizeBytes)
	if after == sizeBytes {
		return sizeBytes
	}
	if len(g.sizes) == maxSegmentSizes {
		g.sizes[1].Seq = g.sizes[0].Seq
		g.sizes = g.sizes[1:]
	}
	g.sizes = append(g.sizes, sizeChange{r.Position.Seq, after})
	return after
}

// sizeOfLocked returns the size at the end of a path that leads on from the
// base. mu must be held.
func (s *Store) sizeOfLocked(parts []pathPart) int64 {
	size := s.state.BaseBytes
	for _, part := range parts {
		for _, c := range part.sizes {
			if c.Seq <= part.upTo {
				size = max(size, c.Bytes)
			}
		}
	}
	return size
}

// SizeAt returns the size, in bytes, that the volume had at a position; that
// of its View. ErrHorizon, ErrUnknownPosition.
func (s *Store) SizeAt(at Position) (int64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, err := s.tree.path(s.state.Horizon, at)
	var path Path
	if err == nil {
		path, err = s.tree.path(s.state.Base, at)
	}
	if err != nil {
		return 0, fmt.Errorf("find size at %s: %w", at, err)
	}
	return s.sizeOfLocked(s.partsLocked(path)), nil
}

// sizeBefore returns the size before a segment's first record; that of the
// base if the segment does not lie behind it.
func (s *Store) sizeBefore(g *segment) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	path, err := s.tree.path(s.state.Base, Position{g.timeline, g.first - 1})
	if err != nil {
		return s.state.BaseBytes
	}
	return s.sizeOfLocked(s.partsLocked(path))
}

// straddlesBase reports whether a segment begins before the base, so that the
// size there is not known any more.
func (s *Store) straddlesBase(g *segment) bool {
	return g.timeline == s.state.Base.Timeline && g.first <= s.state.Base.Seq
}

// growTip makes the tip as large as the live volume, which it is not after a
// fork to before a resize, or where a resize's record found no room. appendMu
// must be held.
func (s *Store) growTip() error {
	if s.tipBytes >= s.SizeBytes() {
		return nil
	}
	tip := s.Tip()
	return s.appendRecord(&Record{Kind: KindResize, Position: Position{tip.Timeline, tip.Seq + 1}, Length: s.SizeBytes()})
}
