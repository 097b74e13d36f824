package journal

import (
	"context"
	"fmt"
)

// baseCheck is told what comes of a comparison of the base with its checksums.
// Each of its functions ends that by an error.
type baseCheck struct {
	found      func(damagedSectors) error       // a run of damaged sectors
	unreadable func(off int64, err error) error // a piece could not be read
	each       func(next, bytes int64) error    // a piece was read; where the next one begins
}

// checkBase compares the base with its checksums in [off, end), where anything but
// zeroes is in either, in pieces of at most maxSummedBytes.
func (s *Store) checkBase(ctx context.Context, off, end int64, to baseCheck) error {
	end = min(end, s.summed.Load())
	var c sumScratch
	p := make([]byte, maxSummedBytes)
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		start, err := s.nextInBase(off, end)
		if err != nil {
			return err
		}
		n := min(end-start, maxSummedBytes)
		if n > 0 {
			if err := s.checkPiece(&c, p[:n], start, to); err != nil {
				return err
			}
		}
		off = start + n
		if err := to.each(off, n); err != nil {
			return err
		}
	}
	return nil
}

// nextInBase returns where, from off on, the base or its checksums may hold anything
// but zeroes; end if nowhere before that.
func (s *Store) nextInBase(off, end int64) (int64, error) {
	next := end
	if start, n, err := s.base.NextData(off); err != nil {
		return 0, fmt.Errorf("look for data in %s: %w", baseFile, err)
	} else if n > 0 {
		next = min(next, start)
	}
	if start, n, err := s.sums.file.NextData(sumOffset(off)); err != nil {
		return 0, fmt.Errorf("look for data in %s: %w", baseSumsFile, err)
	} else if n > 0 {
		next = min(next, start/sumBytes*SectorBytes)
	}
	return max(next&^(SectorBytes-1), off), nil
}

// checkPiece reads a piece of the base into p and reports its damage.
func (s *Store) checkPiece(c *sumScratch, p []byte, off int64, to baseCheck) error {
	s.baseMu.Lock()
	err := s.readBaseUnchecked(p, off)
	var entries []byte
	if err == nil {
		entries, err = s.sums.read(c, off, int64(len(p)))
	}
	s.baseMu.Unlock()
	if err != nil {
		return to.unreadable(off, err)
	}
	for len(p) > 0 {
		d := s.sums.firstDamage(c, p, off, entries)
		if d.length == 0 {
			return nil
		}
		if err := to.found(d); err != nil {
			return err
		}
		n := d.off + d.length - off
		p, off, entries = p[n:], off+n, entries[n/SectorBytes*sumBytes:]
	}
	return nil
}

// unfinishedLocked returns the segments of a batch of destage that did not come to
// its end, not held. What it is going to write is not read from the base, and what is
// there of it is no damage. mu must be held.
func (s *Store) unfinishedLocked() ([]pathPart, error) {
	if s.state.Base == s.state.Horizon {
		return nil, nil
	}
	path, err := s.tree.path(s.state.Base, s.state.Horizon)
	if err != nil {
		return nil, fmt.Errorf("find what is being destaged: %w", err)
	}
	return s.partsLocked(path), nil
}

// isUnfinished reports whether all of the damaged sectors are going to be written by
// an unfinished batch.
func (d *damagedSectors) isUnfinished(parts []pathPart) (bool, error) {
	batch, err := tableOf(parts)
	if err != nil {
		return false, err
	}
	at, end := uint64(d.off)/SectorBytes, uint64(d.off+d.length)/SectorBytes
	for at < end {
		e, ok, _ := batch.first(at, end, true) // never fails
		if !ok || e.start() > at {
			return false, nil
		}
		at = e.end()
	}
	return true, nil
}
