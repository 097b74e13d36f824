package journal

import (
	"errors"
	"fmt"
	"slices"
	"sort"
)

// The index knows where bytes are, and not where the record begins that they are a
// part of. For a segment that is not sealed, memory has the records; for a sealed
// one its frames are walked once, header by header, and their offsets are kept for
// as long as there is room; a segment of long records, of which parts are read most and
// which are few, leaves them behind when it is sealed.

// frameList has the offsets of a sealed segment's frames in order, each divided by
// frameAlign. Those of other records than writes may be missing.
type frameList []uint32

func (l frameList) memoryBytes() int64 { return int64(len(l)) * 4 }

// find returns the record that a piece is a part of.
func (r *recordReader) find(x *piece) (recordPlace, error) {
	off, err := r.frameOf(x)
	if err != nil {
		return recordPlace{}, err
	}
	start := off + frameHeaderBytes
	if parts, ok := r.s.parts.get(segmentPlace{x.g, start}); ok && parts.holds(x, start) {
		return recordPlace{x.g, start, parts.bytes, parts.crc, parts.seq}, nil
	}
	b := r.scratch.room(frameHeaderBytes)
	if err := r.read(x.g, b, off); err != nil {
		return recordPlace{}, err
	}
	place, err := placeOf(b, x, start)
	if err != nil {
		err = locate(err, x.g.name, off)
	}
	return place, err
}

// frameOf returns where the frame begins that a piece is in.
func (r *recordReader) frameOf(x *piece) (off int64, err error) {
	r.s.mu.RLock()
	snap := x.g.snapshot()
	r.s.mu.RUnlock()
	off = frameBefore(snap.changes, x.off)
	if snap.sealed {
		starts, err := r.frameStarts(snap)
		if err != nil {
			return 0, err
		}
		i := sort.Search(len(starts), func(i int) bool { return int64(starts[i])*frameAlign >= x.off })
		off = 0
		if i > 0 {
			off = int64(starts[i-1]) * frameAlign
		}
	}
	if off == 0 {
		return 0, &CorruptError{File: x.g.name, Offset: x.off, What: "record", Wanted: fmt.Sprintf("one that wrote at %d of the volume", x.at), Found: "none"}
	}
	return off, nil
}

// frameBefore returns the offset of the last frame that changes note before a file
// offset; 0 if there is none. Changes that left zeroes have no place.
func frameBefore(changes []change, off int64) int64 {
	placed := func(i int) int { // the last change up to the i-th that has one
		for i >= 0 && changes[i].loc.isZeroes() {
			i--
		}
		return i
	}
	i := sort.Search(len(changes), func(i int) bool {
		i = placed(i)
		return i >= 0 && changes[i].loc.fileOffset() > off
	})
	if i = placed(i - 1); i < 0 {
		return 0
	}
	return changes[i].loc.fileOffset() - frameHeaderBytes
}

// keepFrames keeps the frames of a segment that is being sealed, if its records are
// long on average.
func (s *Store) keepFrames(snap segmentSnapshot) {
	if int64(len(snap.changes))*wholeBytes > snap.end {
		return
	}
	starts := make(frameList, 0, len(snap.changes))
	for _, c := range snap.changes {
		if !c.loc.isZeroes() {
			starts = append(starts, uint32((c.loc.fileOffset()-frameHeaderBytes)/frameAlign))
		}
	}
	s.frames.put(segmentPlace{snap.segment, 0}, starts)
}

// frameStarts returns the frames of a sealed segment, which it walks where they are not
// known. A frame whose header is damaged is left out.
func (r *recordReader) frameStarts(snap segmentSnapshot) (frameList, error) {
	key := segmentPlace{snap.segment, 0}
	if starts, ok := r.s.frames.get(key); ok {
		return starts, nil
	}
	if !r.wait {
		return nil, errWouldWait
	}
	var starts frameList
	b := make([]byte, frameHeaderBytes)
	next, off := snap.first, int64(blockBytes)
	for next <= snap.last && off+frameHeaderBytes <= snap.end {
		if err := r.read(snap.segment, b, off); err != nil {
			return nil, err
		}
		f, payloadBytes, _, err := decodeFrameHeader(b, snap.volume)
		if follows := f.Position.Timeline == snap.timeline && f.Position.Seq >= next && f.Position.Seq <= snap.last; err != nil || !follows {
			if err == nil {
				err = wireCorrupt("record position", Position{snap.timeline, next}.String(), f.Position.String())
			}
			if err = locate(err, snap.name, off); !errors.Is(err, ErrCorrupt) {
				return nil, err
			}
			_ = r.s.noteDamage(err) // the records behind it are as good as before
			found, at, err := findFrame(snap.file, snap.name, snap.volume, off+frameAlign, snap.end, func(f *Record, _ Seq) bool {
				return f.Position.Timeline == snap.timeline && f.Position.Seq > next && f.Position.Seq <= snap.last
			})
			if err != nil {
				return nil, err
			}
			if found == nil {
				break
			}
			next, off = found.Position.Seq, at
			continue
		}
		starts = append(starts, uint32(off/frameAlign))
		next, off = f.Position.Seq+1, off+frameBytes(payloadBytes)
	}
	starts = slices.Clip(starts)
	r.s.frames.put(key, starts)
	return starts, nil
}
