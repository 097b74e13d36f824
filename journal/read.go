package journal

import (
	"errors"
	"fmt"
	"sync"
)

// piece is a run of bytes to be read from one place.
type piece struct {
	dst []byte
	g   *segment // nil: from the base, or zeroes
	off int64    // in the segment or the base
	at  int64    // in the volume
	nil bool     // zeroes
}

type pieces struct {
	list    []piece
	rest    []piece // scratch of fill
	scratch readScratch
	// moved are segments that the live index knows by another id for a
	// moment; see moveLive.
	moved map[segmentID]*segment
}

var piecesPool = sync.Pool{New: func() any { return &pieces{list: make([]piece, 0, 16)} }}

// ReadAt fills p with the live content at off: every append that returned
// before is seen, and all bytes were found to fit their checksums. ErrCorrupt
// where they do not, or where the disk does not give them, ErrRange, ErrPoisoned, ErrClosed; a part of p may have been
// filled, with anything, when an error is returned.
func (s *Store) ReadAt(p []byte, off int64) error {
	if err := s.checkRange(off, int64(len(p))); err != nil {
		return err
	}
	ps := piecesPool.Get().(*pieces)
	defer piecesPool.Put(ps)
	err := s.asDamage(s.readSettled(ps, p, off))
	if errors.Is(err, ErrCorrupt) && s.awaitRepair(err) {
		err = s.asDamage(s.readSettled(ps, p, off))
	}
	return s.noteDamage(err)
}

func (s *Store) readSettled(ps *pieces, p []byte, off int64) error {
	err := s.readOnce(ps, p, off)
	if errors.Is(err, ErrCorrupt) {
		// What was in the base when the read began may have been written since,
		// appended and destaged: then its checksum is another one by now.
		s.baseMu.Lock()
		err = s.readOnce(ps, p, off)
		s.baseMu.Unlock()
	}
	return err
}

func (s *Store) readOnce(ps *pieces, p []byte, off int64) error {
	if err := s.planHealed(ps, p, off); err != nil {
		return err
	}
	defer s.finish(ps)
	return s.readPieces(ps)
}

// planHealed is a plan that waits for the disk, and does without index runs that turn
// out to be damaged. With no error the caller calls finish.
func (s *Store) planHealed(ps *pieces, p []byte, off int64) error {
	for {
		err := s.plan(ps, p, off, true)
		if err == nil || !s.healed(err) {
			return err
		}
		if err := s.refreshLive(); err != nil {
			return err
		}
	}
}

// TryReadAt is ReadAt where no disk has to be waited for; done is false when
// one would, and p is then undefined.
func (s *Store) TryReadAt(p []byte, off int64) (done bool, err error) {
	if err := s.checkRange(off, int64(len(p))); err != nil {
		return false, err
	}
	ps := piecesPool.Get().(*pieces)
	defer piecesPool.Put(ps)
	switch err := s.plan(ps, p, off, false); {
	case errors.Is(err, errWouldWait), isRunDamage(err): // ReadAt sees to it
		return false, nil
	case err != nil:
		return false, err
	}
	defer s.finish(ps)
	for i := range ps.list {
		x, done, err := &ps.list[i], true, error(nil)
		switch {
		case x.nil:
			clear(x.dst)
		case x.g != nil:
			done, err = s.tryReadJournal(&ps.scratch, x)
		default:
			done, err = s.tryReadBase(&ps.scratch.sums, x.dst, x.off)
		}
		if err != nil || !done {
			return false, err
		}
	}
	return true, nil
}

// plan looks p up in the index and holds the segments it needs. Errors of an
// index run are *runDamage; without wait, errWouldWait where it is not in memory.
func (s *Store) plan(ps *pieces, p []byte, off int64, wait bool) error {
	s.requests.Add(1)
	st, err := s.planInMemory(ps, p, off)
	if st == nil || err != nil {
		return err
	}
	defer s.releaseStack(st)
	if err := ps.fill(st, wait); err != nil {
		s.finish(ps)
		return err
	}
	return nil
}

// planInMemory looks p up in what is in memory of the index. The pieces that
// are then of the base may be in the stack, which is held; nil if there is
// none.
func (s *Store) planInMemory(ps *pieces, p []byte, off int64) (*stack, error) {
	ps.list = ps.list[:0]
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	ps.moved = s.moved
	err := ps.split(p, off, s.index, s.segments)
	ps.moved = nil
	if err != nil {
		return nil, err
	}
	for _, x := range ps.list {
		if x.g != nil {
			x.g.users.Add(1)
		}
	}
	st := s.index.stack
	if st != nil {
		st.users.Add(1)
	}
	return st, nil
}

// fill looks up in a stack what is of the base so far, and holds the segments
// that it finds.
func (ps *pieces) fill(st *stack, wait bool) (err error) {
	ps.rest = append(ps.rest[:0], ps.list...)
	defer func() { clear(ps.rest) }()
	ps.list = ps.list[:0]
	for _, x := range ps.rest {
		if x.g != nil || x.nil || err != nil {
			ps.list = append(ps.list, x)
			continue
		}
		n := len(ps.list)
		err = ps.split(x.dst, x.off, patient{st, wait}, st.held)
		for _, found := range ps.list[n:] {
			if found.g != nil {
				found.g.users.Add(1)
			}
		}
	}
	return err
}

func (s *Store) finish(ps *pieces) {
	for i, x := range ps.list {
		if x.g != nil {
			s.releaseSegment(x.g)
		}
		ps.list[i] = piece{}
	}
}

func (s *Store) readPieces(ps *pieces) error {
	for i := range ps.list {
		x, err := &ps.list[i], error(nil)
		switch {
		case x.nil:
			clear(x.dst)
		case x.g != nil:
			err = s.readJournal(&ps.scratch, x)
		default:
			err = s.readBase(&ps.scratch.sums, x.dst, x.off)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// split divides p, which stands for the bytes at off, by an index. A location
// in a segment that is not there is a broken invariant, and must not read as
// the base.
func (ps *pieces) split(p []byte, off int64, ix lookuper, segments map[segmentID]*segment) (err error) {
	end := off + int64(len(p))
	at := off
	next := func(n int64) piece {
		x := piece{off: at, at: at, dst: p[at-off:][:n:n]}
		at += n
		return x
	}
	failed := ix.lookup(uint64(off)/SectorBytes, uint64(end)/SectorBytes, func(e extent) bool {
		if start := int64(e.start()) * SectorBytes; start > at {
			ps.list = append(ps.list, next(start-at))
		}
		x := next(int64(e.sectors()) * SectorBytes)
		if e.loc.isZeroes() {
			x.nil = true
		} else {
			x.g, x.off = segments[e.loc.segment()], e.loc.fileOffset()
			if x.g == nil {
				x.g = ps.moved[e.loc.segment()]
			}
			if x.g == nil {
				err = fmt.Errorf("look up %d bytes at %d: no segment %d", len(p), off, e.loc.segment())
				return false
			}
		}
		ps.list = append(ps.list, x)
		return true
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	if at < end {
		ps.list = append(ps.list, next(end-at))
	}
	return nil
}
