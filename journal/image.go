package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Image is the volume at a position of a store that nobody has open. Every
// record that it is made of has been verified. Its methods may be called
// concurrently.
type Image struct {
	*View
	lost    []lostExtent // ascending, disjoint
	unknown []Damage
}

// lostExtent is a part of an image whose bytes are damaged.
type lostExtent struct {
	start, end uint64 // sectors
	cause      error
}

// ImageOptions choose how Image meets damage.
type ImageOptions struct {
	// KeepGoing makes an image also where parts of it are damaged: ReadAt of
	// these fails, and nothing of the rest.
	KeepGoing bool
	// Verified is told of the journal's bytes that were verified and are to be;
	// nil: nobody wants to know.
	Verified func(doneBytes, totalBytes int64)
}

// Image verifies every record on the path to a position and returns the image
// there. Errors: ErrHorizon, ErrUnknownPosition, ctx's, an I/O error. Damage is
// an error too, which names where it lies in the volume, unless
// ImageOptions.KeepGoing.
func (r *ReadOnly) Image(ctx context.Context, at Position, options ImageOptions) (*Image, error) {
	im, err := r.image(ctx, at, options)
	if err != nil {
		return nil, fmt.Errorf("read image at %s: %w", at, err)
	}
	return im, nil
}

func (r *ReadOnly) image(ctx context.Context, at Position, options ImageOptions) (*Image, error) {
	if err := r.in.report.firstDamage(); err != nil && !options.KeepGoing {
		return nil, err
	}
	s := r.in.s
	s.mu.RLock()
	parts, err := s.holdPathLocked(at)
	size := s.sizeOfLocked(parts)
	s.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	ranges := map[segmentID][]damagedRange{}
	unknown, err := r.verifyParts(ctx, parts, ranges, options.Verified)
	if err != nil {
		for _, part := range parts {
			s.releaseSegment(part.segment)
		}
		return nil, err
	}
	im := &Image{View: &View{s: s, at: at, size: size, hold: s.addHold(hold{at: at})}, unknown: unknown}
	if im.index, err = s.newStack(parts, maxRunLevel+1, nil); err == nil {
		err = im.findLost(ranges)
	}
	if err == nil && !options.KeepGoing {
		err = im.damage()
	}
	if err != nil {
		return nil, errors.Join(err, im.Close())
	}
	return im, nil
}

// verifyParts reads every record of a path, and changes the parts whose index
// cannot be trusted so that it is made of the records that are sound.
func (r *ReadOnly) verifyParts(ctx context.Context, parts []pathPart, ranges map[segmentID][]damagedRange, progress func(done, total int64)) (unknown []Damage, err error) {
	var done, total int64
	for _, part := range parts {
		total += part.end
	}
	for i := range parts {
		part := &parts[i]
		bad, lost, err := verifyFrames(ctx, part, !r.broken[part.id])
		if err != nil {
			return nil, err
		}
		if len(bad) > 0 {
			ranges[part.id] = bad
		}
		for _, x := range lost {
			unknown = append(unknown, DescribeDamage(x))
		}
		done += part.end
		if progress != nil {
			progress(done, total)
		}
	}
	return unknown, nil
}

// damagedRange is a run of bytes in a segment's file that are not the records
// that were written there.
type damagedRange struct {
	start, end int64
	cause      error
}

// errPathEnds ends a walk behind the last record of a path.
var errPathEnds = errors.New("path ends")

// verifyFrames reads the records of a part. unknown is the damage of which it
// cannot be told what it changed. Where no sound footer says it, the part's index
// becomes that of the records.
func verifyFrames(ctx context.Context, part *pathPart, footerSound bool) (bad []damagedRange, unknown []error, err error) {
	g := part.segment
	if g.file == nil {
		part.sealed, part.changes = false, nil
		return nil, []error{&CorruptError{File: g.name, What: "segment", Wanted: fmt.Sprintf("a file of %d bytes", g.bytes), Found: "none"}}, nil
	}
	var changes []change
	err = walkFrames(g, part.end, func(f *frame) error {
		if n := len(bad); n > 0 && bad[n-1].end > f.off {
			bad[n-1].end = f.off
		}
		if f.Position.Seq > part.upTo {
			return errPathEnds
		}
		switch f.Kind {
		case KindWrite, KindDiscard, KindZero:
			changes = append(changes, changeOf(g, f))
		}
		if f.Position.Seq == part.upTo {
			return errPathEnds
		}
		return ctx.Err()
	}, func(cause error) error {
		off := part.end
		var c *CorruptError
		if errors.As(cause, &c) {
			off = c.Offset
		}
		bad = append(bad, damagedRange{off, part.end, cause})
		if x, ok := headerAt(g, off); ok {
			changes = append(changes, x...)
		} else {
			unknown = append(unknown, cause)
		}
		return ctx.Err()
	})
	if err != nil && !errors.Is(err, errPathEnds) {
		return nil, nil, err
	}
	if part.whole() && footerSound {
		return bad, nil, nil
	}
	part.sealed, part.changes = false, changes
	return bad, unknown, nil
}

// headerAt reads what a record changed whose payload is damaged, and whose
// header may be sound: then it is known which bytes are lost.
func headerAt(g *segment, off int64) ([]change, bool) {
	b := make([]byte, frameHeaderBytes)
	if err := readFull(g.file, b, off); err != nil {
		return nil, false
	}
	r, _, _, err := decodeFrameHeader(b, g.volume)
	if err != nil || r.Position.Timeline != g.timeline {
		return nil, false
	}
	f := frame{Record: r, off: off}
	switch r.Kind {
	case KindWrite, KindDiscard, KindZero:
		return []change{changeOf(g, &f)}, true
	}
	return nil, true // a checkpoint changes nothing
}

// findLost finds what of the image lies in damaged parts of segments.
func (im *Image) findLost(ranges map[segmentID][]damagedRange) error {
	if len(ranges) == 0 {
		return nil
	}
	return im.with(func(st *stack) error {
		im.lost = im.lost[:0]
		return st.lookup(0, uint64(im.size)/SectorBytes, func(e extent) bool {
			if e.loc.isZeroes() {
				return true
			}
			from := e.loc.fileOffset()
			to := from + int64(e.sectors())*SectorBytes
			for _, bad := range ranges[e.loc.segment()] {
				if from < bad.end && to > bad.start {
					im.lost = append(im.lost, lostExtent{e.start(), e.end(), bad.cause})
					break
				}
			}
			return true
		})
	})
}

// damage is what makes the image useless to whoever wants all of it.
func (im *Image) damage() error {
	switch {
	case len(im.lost) > 0:
		return im.lost[0].asError(len(im.lost) - 1)
	case len(im.unknown) > 0:
		return fmt.Errorf("a record is damaged, and what it changed is not known: %w", im.unknown[0].asError())
	}
	return nil
}

func (x lostExtent) asError(more int) error {
	err := fmt.Errorf("%d bytes at offset %d of the volume are damaged: %w", (x.end-x.start)*SectorBytes, x.start*SectorBytes, x.cause)
	if more > 0 {
		err = fmt.Errorf("%w, and %d more places", err, more)
	}
	return err
}

// Unknown returns the damaged records of which it is not known what they
// changed: any part of the image may be older than it should be.
func (im *Image) Unknown() []Damage { return slices.Clone(im.unknown) }

// ReadAt is View.ReadAt, and fails with ErrCorrupt where a part of p is lost.
func (im *Image) ReadAt(p []byte, off int64) error {
	start, end := uint64(off)/SectorBytes, uint64(off+int64(len(p)))/SectorBytes
	i, _ := slices.BinarySearchFunc(im.lost, start, func(x lostExtent, at uint64) int {
		if x.end <= at {
			return -1
		}
		return 1
	})
	if i < len(im.lost) && im.lost[i].start < end {
		return im.lost[i].asError(0)
	}
	return im.View.ReadAt(p, off)
}
