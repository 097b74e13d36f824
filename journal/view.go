package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// View is the read-only image of the volume at a position. It keeps what it
// needs, and the horizon from passing its position, until Close. Its methods
// may be called concurrently.
type View struct {
	s    *Store
	at   Position
	size int64
	hold *hold
	once sync.Once

	mu    sync.Mutex
	index *stack // replaced where a run of it is damaged; guarded by mu
}

// View opens the image at a position. ErrHorizon if it is too old, ErrThinned if
// it lies between kept checkpoints, ErrUnknownPosition if no known timeline has it. Nothing is copied, and no
// data is read but that of a segment that the position is in the middle of: the
// cost is opening the index runs that lead there, and reading the indexes of
// the last segments.
func (s *Store) View(at Position) (*View, error) {
	s.mu.RLock()
	err := s.usable()
	var parts []pathPart
	if err == nil {
		parts, err = s.holdPathLocked(at)
	}
	v := &View{s: s, at: at, size: s.sizeOfLocked(parts)}
	if err == nil {
		v.hold = s.addHold(hold{at: at})
	}
	s.mu.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("open view at %s: %w", at, err)
	}
	v.index, err = s.newStack(parts, maxRunLevel+1, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open view at %s: %w", at, err), v.Close())
	}
	return v, nil
}

// with calls use with the view's index, and once more with another index where
// a run of it turned out to be damaged.
func (v *View) with(use func(*stack) error) error {
	for {
		v.mu.Lock()
		st := v.index
		if st != nil {
			st.users.Add(1)
		}
		v.mu.Unlock()
		if st == nil {
			return ErrClosed
		}
		err := use(st)
		v.s.releaseStack(st)
		if !v.s.healed(err) {
			return err
		}
		if err := v.renew(st); err != nil {
			return err
		}
	}
}

// renew makes the index anew, unless somebody else has done that by now.
func (v *View) renew(broken *stack) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.index != broken {
		return nil
	}
	for _, part := range broken.parts {
		part.users.Add(1)
	}
	st, err := v.s.newStack(broken.parts, maxRunLevel+1, broken)
	if err != nil {
		return fmt.Errorf("renew index of view at %s: %w", v.at, err)
	}
	v.index = st
	v.s.releaseStack(broken)
	return nil
}

// pathPart is a segment, or the part of one, on a path.
type pathPart struct {
	segmentSnapshot
	upTo Seq // the last seq of it on the path
}

// holdPathLocked returns the segments from the base to a position, oldest
// first, and holds each. mu must be held.
func (s *Store) holdPathLocked(at Position) ([]pathPart, error) {
	if _, err := s.tree.path(s.state.Horizon, at); err != nil {
		return nil, err
	}
	if err := s.checkOpenLocked(at); err != nil {
		return nil, err
	}
	path, err := s.tree.path(s.state.Base, at)
	if err != nil {
		return nil, err
	}
	parts := s.partsLocked(path)
	for _, part := range parts {
		part.users.Add(1)
	}
	return parts, nil
}

// partsLocked returns the segments on a path, oldest first.
func (s *Store) partsLocked(path Path) []pathPart {
	var parts []pathPart
	for _, run := range path {
		if run.Last < run.First {
			continue
		}
		for _, g := range s.lineLocked(run.Timeline) {
			if !g.empty() && g.first <= run.Last && g.last >= run.First {
				parts = append(parts, pathPart{g.snapshot(), min(run.Last, g.last)})
			}
		}
	}
	return parts
}

// parallelParts is how many segments make it worth the while to read and merge
// their indexes on two processors.
const parallelParts = 8

// tableOf merges the indexes of the parts of a path.
func tableOf(parts []pathPart) (table, error) {
	if len(parts) < parallelParts {
		return mergeParts(parts)
	}
	var older table
	var olderErr error
	var group sync.WaitGroup
	group.Go(func() { older, olderErr = mergeParts(parts[:len(parts)/2]) })
	newer, err := mergeParts(parts[len(parts)/2:])
	group.Wait()
	if err = errors.Join(olderErr, err); err != nil {
		return nil, err
	}
	return overlay(older, newer), nil
}

func mergeParts(parts []pathPart) (table, error) {
	tables := make([]table, 0, len(parts))
	for _, part := range parts {
		t, err := part.tableUpTo(part.segmentSnapshot, part.upTo)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return overlayAll(tables), nil
}

// Volume returns the id of the volume that the view is of.
func (v *View) Volume() VolumeID { return v.s.volume }

// Position returns what the view shows.
func (v *View) Position() Position { return v.at }

// SizeBytes returns the size that the volume had at the position.
func (v *View) SizeBytes() int64 { return v.size }

// HeldBytes is the room of the journal's segments that are not destaged while the
// view is open, whoever else holds them.
func (v *View) HeldBytes() (total int64) {
	s := v.s
	s.mu.RLock()
	defer s.mu.RUnlock()
	path, err := s.tree.path(v.at, s.tipLocked())
	if err != nil { // a timeline that was left: it keeps the base where it is
		return s.journalBytesLocked()
	}
	for _, part := range s.partsLocked(path) {
		total += part.bytes
	}
	return total
}

// ReadAt fills p with the content at off; offset and length in whole sectors.
// Errors as Store.ReadAt.
func (v *View) ReadAt(p []byte, off int64) error {
	if off < 0 || len(p) == 0 || off%SectorBytes != 0 || len(p)%SectorBytes != 0 || off > v.size-int64(len(p)) {
		return fmt.Errorf("read %d bytes at %d of a view of %d: %w", len(p), off, v.size, ErrRange)
	}
	err := v.s.asDamage(v.readOnce(p, off))
	if errors.Is(err, ErrCorrupt) && v.s.awaitRepair(err) {
		err = v.s.asDamage(v.readOnce(p, off))
	}
	return v.s.noteDamage(err)
}

func (v *View) readOnce(p []byte, off int64) error {
	ps := piecesPool.Get().(*pieces)
	defer piecesPool.Put(ps)
	defer func() { clear(ps.list) }()
	return v.with(func(st *stack) error {
		ps.list = ps.list[:0]
		if err := ps.split(p, off, st, st.held); err != nil {
			return err
		}
		return v.s.readPieces(ps)
	})
}

// Allocation describes a range of the view as Store.Allocation does.
func (v *View) Allocation(off, length int64, limit int) ([]AllocatedRange, error) {
	if off < 0 || length <= 0 || off > v.size-length {
		return nil, fmt.Errorf("describe %d bytes at %d of a view of %d: %w", length, off, v.size, ErrRange)
	}
	var out []AllocatedRange
	err := v.with(func(st *stack) (err error) {
		out, err = collectAllocation(st, v.s.underlay(), off, length, limit)
		return err
	})
	return out, err
}

// NextData returns the first run at or after off that may hold other bytes
// than zeroes; length 0 means that there is none.
func (v *View) NextData(off int64) (start, length int64, err error) {
	err = v.with(func(st *stack) error {
		length = 0
		return allocation(st, v.s.underlay(), off, v.size-off, func(r AllocatedRange) bool {
			if r.Zero {
				return length == 0
			}
			if length == 0 {
				start = r.Offset
			}
			length += r.Length
			return true
		})
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return start, length, err
}

// Close releases what the view holds. Idempotent.
func (v *View) Close() error {
	v.once.Do(func() {
		v.mu.Lock()
		st := v.index
		v.index = nil
		v.mu.Unlock()
		v.s.dropHold(v.hold)
		v.s.releaseStack(st)
	})
	return nil
}

func (s *Store) addHold(h hold) *hold {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	s.holds[&h] = struct{}{}
	return &h
}

func (s *Store) dropHold(h *hold) {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	delete(s.holds, h)
	s.letGo()
}

func (s *Store) moveHold(h *hold, at Position) {
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	h.at = at
}
