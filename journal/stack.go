package journal

import (
	"errors"
	"slices"
	"sync/atomic"
)

// layer is one index of a stack: a run, or a table in memory.
type layer interface {
	// first returns the first mapped part of [start, end); ok is false if
	// there is none. Without wait it is errWouldWait where a disk would have
	// to be waited for.
	first(start, end uint64, wait bool) (e extent, ok bool, err error)
	// cursor yields all extents.
	cursor() cursor
}

// stack is the index of a position, or of a part of the path to it: layers of
// which the newer hide the older. It is immutable, holds the segments that it
// leads to, and takes memory for what lies in no run. What it does not map is
// in the base, and so is what it maps to a segment older than its oldest: runs
// reach back behind the base.
type stack struct {
	layers []layer // newest first
	runs   []*run  // among the layers
	parts  []pathPart
	held   map[segmentID]*segment // of parts
	oldest segmentID
	// partial has the tables of segments that lie on the path in part, which
	// are costly to make.
	partial map[partKey]table
	users   atomic.Int64
}

// partKey is of the segment itself, and not of its id, which another generation of it
// has, too.
type partKey struct {
	segment *segment
	upTo    Seq
}

// whole reports whether all of a segment is on the path, and its footer is
// there to say so.
func (p *pathPart) whole() bool { return p.sealed && p.upTo == p.last }

// newStack makes the index of parts that follow one another on a path, oldest
// first, with runs below a level. It takes over the caller's hold on the parts,
// also when it fails. from, which may be nil, is an older stack of the same
// path.
func (s *Store) newStack(parts []pathPart, below uint8, from *stack) (*stack, error) {
	st := &stack{parts: parts, held: make(map[segmentID]*segment, len(parts)), partial: map[partKey]table{}}
	st.users.Store(1)
	if len(parts) > 0 {
		st.oldest = parts[0].id
	}
	for _, part := range parts {
		st.held[part.id] = part.segment
	}
	levels := slices.DeleteFunc(s.runs.levels(), func(level uint8) bool { return level >= below })
	begin := 0 // of the parts that no run has
	for i := 0; i < len(parts); {
		r, n := s.longestRun(st, i, levels)
		if r == nil {
			i++
			continue
		}
		err := st.addTables(parts[begin:i], from)
		st.layers, st.runs = append(st.layers, r), append(st.runs, r)
		i += n
		begin = i
		if err != nil {
			s.releaseStack(st)
			return nil, err
		}
	}
	if err := st.addTables(parts[begin:], from); err != nil {
		s.releaseStack(st)
		return nil, err
	}
	slices.Reverse(st.layers)
	return st, nil
}

// longestRun opens the run that has most of the parts from the i-th on, and
// returns how many; nil if there is none.
func (s *Store) longestRun(st *stack, i int, levels []uint8) (*run, int) {
	parts := st.parts[i:]
	for _, level := range levels {
		start := parts[0].id &^ (1<<level - 1)
		n := slices.IndexFunc(parts, func(p pathPart) bool { return !p.whole() || p.id >= start+1<<level })
		if n < 0 {
			n = len(parts)
		}
		if n == 0 {
			return nil, 0
		}
		r := s.runs.acquire(runKey{parts[n-1].timeline, start, level}, s.areCurrent)
		if r == nil {
			continue
		}
		if r.covers(parts[:n], st.oldest) {
			return r, n
		}
		s.runs.release(r)
	}
	return nil, 0
}

// covers reports whether a run has exactly these parts of a path, but for
// segments that are older than the path's oldest.
func (r *run) covers(parts []pathPart, oldest segmentID) bool {
	list := r.segments
	for len(list) > 0 && list[0].id < oldest {
		list = list[1:]
	}
	return slices.EqualFunc(list, parts, func(g runSegment, p pathPart) bool { return g == runSegmentOf(p.segment, p.last) })
}

// areCurrent reports whether the segments of a run are those of the store. The
// oldest of them may be gone.
func (s *Store) areCurrent(list []runSegment) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	present := false
	for _, listed := range list {
		g := s.segments[listed.id]
		if g == nil && present || g != nil && (!g.sealed || runSegmentOf(g, g.last) != listed) {
			return false
		}
		present = present || g != nil
	}
	return present
}

// addTables adds the parts that are in no run: those that follow one another
// as one table, but each that is not whole alone.
func (st *stack) addTables(parts []pathPart, from *stack) error {
	for len(parts) > 0 {
		n := slices.IndexFunc(parts, func(p pathPart) bool { return p.sealed && !p.whole() })
		switch n {
		case -1:
			n = len(parts)
		case 0:
			t, err := st.partialTable(&parts[0], from)
			if err != nil {
				return err
			}
			st.layers, parts = append(st.layers, t), parts[1:]
			continue
		}
		t, err := tableOf(parts[:n])
		if err != nil {
			return err
		}
		st.layers, parts = append(st.layers, t), parts[n:]
	}
	return nil
}

// partialTable is the table of a sealed segment's part.
func (st *stack) partialTable(part *pathPart, from *stack) (t table, err error) {
	key, ok := partKey{part.segment, part.upTo}, false
	if from != nil {
		t, ok = from.partial[key]
	}
	if !ok {
		t, err = part.tableUpTo(part.segmentSnapshot, part.upTo)
	}
	st.partial[key] = t
	return t, err
}

// releaseStack gives up one use of a stack; the last one lets go of its
// segments and runs.
func (s *Store) releaseStack(st *stack) {
	if st == nil || st.users.Add(-1) > 0 {
		return
	}
	for _, r := range st.runs {
		s.runs.release(r)
	}
	for _, part := range st.parts {
		s.releaseSegment(part.segment)
	}
}

// lookup calls fn for the mapped parts of [start, end) in ascending order until
// fn returns false. An error of a run is a *runDamage.
func (st *stack) lookup(start, end uint64, fn func(extent) bool) error {
	_, err := st.descend(0, start, end, true, fn)
	return err
}

// descend looks up what the layers above the i-th do not map.
func (st *stack) descend(i int, start, end uint64, wait bool, fn func(extent) bool) (more bool, err error) {
	if i == len(st.layers) {
		return true, nil
	}
	for start < end {
		e, ok, err := st.layers[i].first(start, end, wait)
		if err != nil {
			return false, err
		}
		if !ok {
			return st.descend(i+1, start, end, wait, fn)
		}
		if e.start() > start {
			if more, err := st.descend(i+1, start, e.start(), wait, fn); err != nil || !more {
				return false, err
			}
		}
		if e.loc.segment() >= st.oldest && !fn(e) {
			return false, nil
		}
		start = e.end()
	}
	return true, nil
}

// tableExtents is the number of extents that are in memory.
func (st *stack) tableExtents() (n int) {
	if st == nil {
		return 0
	}
	for _, l := range st.layers {
		if t, ok := l.(table); ok {
			n += len(t)
		}
	}
	return n
}

// cursor yields all extents, also those that are in the base by now.
func (st *stack) cursor() cursor {
	cursors := make([]cursor, len(st.layers))
	for i, l := range st.layers {
		cursors[i] = l.cursor()
	}
	return overlayCursors(cursors)
}

// patient is a stack as an index that may, or may not, wait for the disk.
type patient struct {
	*stack
	wait bool
}

func (p patient) lookup(start, end uint64, fn func(extent) bool) error {
	_, err := p.descend(0, start, end, p.wait, fn)
	return err
}

func isRunDamage(err error) bool {
	var d *runDamage
	return errors.As(err, &d)
}

// healed reports whether an error is that of a damaged run, which was then
// dropped: who makes a new stack gets one without it.
func (s *Store) healed(err error) bool {
	var d *runDamage
	if !errors.As(err, &d) {
		return false
	}
	s.runs.damaged(d)
	return true
}
