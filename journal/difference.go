package journal

import (
	"context"
	"fmt"
)

// Difference is what an overlay holds of its own at one moment: the runs of
// sectors that were written to the fork, newest version only, and those that
// were discarded in it. It is immutable, and keeps what it needs of the overlay
// until Close. Its methods may be called concurrently.
type Difference struct {
	view   *View
	origin *View
}

// differenceRuns is how many runs are looked up in one go.
const differenceRuns = 4096

// Difference returns what an overlay holds now; ErrOverlay for a store that is none.
// What is not flushed is in it, and is not durable.
func (s *Store) Difference() (*Difference, error) {
	if !s.isOverlay() {
		return nil, fmt.Errorf("take the difference of volume %s, which lies over nothing: %w", s.volume, ErrOverlay)
	}
	v, err := s.View(s.Tip())
	if err != nil {
		return nil, err
	}
	return &Difference{view: v, origin: s.cfg.Origin}, nil
}

// Close releases what the difference keeps. Idempotent.
func (d *Difference) Close() error { return d.view.Close() }

// DifferenceSize says how large a Difference is.
type DifferenceSize struct {
	PayloadBytes int64 // of content, without what reads as zeroes
	JournalBytes int64 // that Absorb appends to a journal, nearly
}

// Size looks at the index alone. Errors of ctx.
func (d *Difference) Size(ctx context.Context) (size DifferenceSize, err error) {
	err = d.eachChunk(ctx, func(_, length int64, zeroes bool) error {
		payload := length
		if zeroes {
			payload = 0
		}
		size.PayloadBytes += payload
		size.JournalBytes += frameBytes(int(payload))
		return nil
	})
	return size, err
}

// Verify reads all of it, and tells after each read how many bytes that were.
// ErrCorrupt where what is read does not fit its checksum; errors of ctx.
func (d *Difference) Verify(ctx context.Context, did func(bytes int64)) error {
	buf := make([]byte, MaxPayloadBytes)
	return d.eachChunk(ctx, func(off, length int64, zeroes bool) error {
		if zeroes {
			return nil
		}
		if err := d.view.ReadAt(buf[:length], off); err != nil {
			return fmt.Errorf("read %d bytes at %d of overlay %s: %w", length, off, d.view.Volume(), err)
		}
		did(length)
		return nil
	})
}

// Absorb appends what an overlay of this store's volume holds, content as writes and
// the rest as discards, and tells after each write how many bytes that were. The
// store is to stand at the overlay's origin, or where an earlier call ended before
// its end: then it holds afterwards what the fork held. Nobody else may append
// meanwhile. Durable on return. ErrForeign for an overlay of another volume;
// ErrCorrupt where the overlay is damaged, which leaves a part of it appended, as
// every error does; ErrFull, ErrPoisoned, ErrClosed of the store; errors of ctx.
func (s *Store) Absorb(ctx context.Context, d *Difference, did func(bytes int64)) error {
	if d.origin.Volume() != s.volume {
		return fmt.Errorf("absorb an overlay of volume %s into volume %s: %w", d.origin.Volume(), s.volume, ErrForeign)
	}
	buf := make([]byte, MaxPayloadBytes)
	err := d.eachChunk(ctx, func(off, length int64, zeroes bool) error {
		if zeroes {
			_, err := s.Discard(off, length)
			return err
		}
		if err := d.view.ReadAt(buf[:length], off); err != nil {
			return fmt.Errorf("read %d bytes at %d of overlay %s: %w", length, off, d.view.Volume(), err)
		}
		_, err := s.Write(buf[:length], off)
		did(length)
		return err
	})
	if err == nil {
		err = s.Flush(ctx)
	}
	if err != nil {
		return fmt.Errorf("absorb what a fork of volume %s holds: %w", s.volume, err)
	}
	return nil
}

// eachChunk calls fn for all that the overlay has, in ascending order, in chunks
// that are one record each.
func (d *Difference) eachChunk(ctx context.Context, fn func(off, length int64, zeroes bool) error) error {
	end := uint64(d.view.size) / SectorBytes
	for from := uint64(0); from < end; {
		runs, next, err := d.runsFrom(from, end)
		if err != nil {
			return err
		}
		for _, r := range runs {
			limit := int64(MaxPayloadBytes)
			if r.zeroes {
				limit = maxExtentBytes
			}
			for off, stop := int64(r.start)*SectorBytes, int64(r.end)*SectorBytes; off < stop; off += limit {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := fn(off, min(limit, stop-off), r.zeroes); err != nil {
					return err
				}
			}
		}
		from = next
	}
	return nil
}

// differenceRun is a run of sectors [start, end).
type differenceRun struct {
	start, end uint64
	zeroes     bool
}

// runsFrom looks up the next runs in [from, end), neighbours merged, and tells where
// to go on.
func (d *Difference) runsFrom(from, end uint64) (runs []differenceRun, next uint64, err error) {
	err = d.view.with(func(st *stack) error {
		runs, next = runs[:0], end
		return st.lookup(from, end, func(e extent) bool {
			if n := len(runs); n > 0 && runs[n-1].end == e.start() && runs[n-1].zeroes == e.loc.isZeroes() {
				runs[n-1].end = e.end()
				return true
			}
			if len(runs) == differenceRuns {
				next = e.start()
				return false
			}
			runs = append(runs, differenceRun{e.start(), e.end(), e.loc.isZeroes()})
			return true
		})
	})
	return runs, next, err
}
