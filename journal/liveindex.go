package journal

// liveIndex is the index of the live view. While it is small, all of it is in
// memory, in young. When young is full it becomes old at the end of a segment,
// and as soon as all those segments are sealed, a stack takes its place: what
// they changed is on disk, in their footers and in runs.
//
//	young   segments behind oldUpTo, and behind stackUpTo
//	old     nil, or segments up to oldUpTo and behind stackUpTo
//	stack   nil, or segments from the base up to stackUpTo
//
// Guarded by Store.mu; the stack itself is immutable.
type liveIndex struct {
	young, old         *extentMap
	stack              *stack
	oldUpTo, stackUpTo segmentID
}

// insert maps sectors [start, end) to loc, in the newest segment.
func (x *liveIndex) insert(start, end uint64, loc location) { x.young.insert(start, end, loc) }

// lookup calls fn for what the part in memory maps of [start, end), in
// ascending order until fn returns false. The rest is in the stack, or the
// base. It never fails.
func (x *liveIndex) lookup(start, end uint64, fn func(extent) bool) error {
	if x.old == nil {
		return x.young.lookup(start, end, fn)
	}
	return x.lookupBoth(start, end, fn)
}

// lookupBoth is a function of its own because what its closures share is
// allocated, which most lookups need not pay for.
func (x *liveIndex) lookupBoth(start, end uint64, fn func(extent) bool) error {
	more := true
	older := func(to uint64) {
		if more && start < to {
			_ = x.old.lookup(start, to, func(e extent) bool { // never fails
				more = fn(e)
				return more
			})
		}
	}
	err := x.young.lookup(start, end, func(e extent) bool {
		older(e.start())
		more = more && fn(e)
		start = e.end()
		return more
	})
	older(end)
	return err
}

// collect returns what the part in memory maps of [start, end), at most limit
// extents of it, and how far that goes.
func (x *liveIndex) collect(start, end uint64, limit int) (t table, upTo uint64) {
	upTo = end
	_ = x.lookup(start, end, func(e extent) bool { // never fails
		t = append(t, e)
		if len(t) == limit {
			upTo = e.end()
		}
		return len(t) < limit
	})
	return t, upTo
}

// leaveStack takes the stack out, for the caller to release, if all of it is of segments up
// to and including last, which the base has; nil if it is not, or there is none.
func (x *liveIndex) leaveStack(last segmentID) *stack {
	if last < x.stackUpTo {
		return nil
	}
	st := x.stack
	x.stack = nil
	return st
}

// remove forgets [start, end) where it is mapped to a segment up to and
// including last: there the base now has the same bytes, and no stack an older version.
func (x *liveIndex) remove(start, end uint64, last segmentID) {
	if last <= x.stackUpTo {
		return // what is in memory is newer
	}
	x.young.remove(start, end, last)
	if x.old != nil {
		x.old.remove(start, end, last)
	}
}

// relocate is that of extentMap, for all that is in memory.
func (x *liveIndex) relocate(start, end uint64, from, to location) {
	x.young.relocate(start, end, from, to)
	if x.old != nil {
		x.old.relocate(start, end, from, to)
	}
}

// bounds are the ids behind which the index has segments in another place.
func (x *liveIndex) bounds() (ids []segmentID) {
	if x.stack != nil {
		ids = append(ids, x.stackUpTo)
	}
	if x.old != nil {
		ids = append(ids, x.oldUpTo)
	}
	return ids
}

// rotate puts young aside before the segment next takes its first record, if
// it has limit extents and what was put aside before is in a stack by now.
func (x *liveIndex) rotate(next segmentID, limit int) (rotated bool) {
	if x.old != nil || x.young.len() < limit {
		return false
	}
	x.old, x.young, x.oldUpTo = x.young, newExtentMap(), next-1
	return true
}

// len is the number of extents in memory.
func (x *liveIndex) len() int {
	n := x.young.len()
	if x.old != nil {
		n += x.old.len()
	}
	return n + x.stack.tableExtents()
}

// indexAt makes the index of the live view at a position of the tree, and
// returns the volume's size there. All of it is in memory if it is small.
func (s *Store) indexAt(at Position) (*liveIndex, int64, error) { return s.indexBehind(at, nil) }

// indexBehind is indexAt for what sealed segments make of that position that
// the store does not know yet.
func (s *Store) indexBehind(at Position, more []*segment) (*liveIndex, int64, error) {
	s.mu.RLock()
	parts, err := s.holdPathLocked(at)
	if err == nil {
		for _, g := range more {
			g.users.Add(1)
			parts = append(parts, pathPart{g.snapshot(), g.last})
		}
	}
	size := s.sizeOfLocked(parts)
	s.mu.RUnlock()
	if err != nil {
		return nil, 0, err
	}
	x := &liveIndex{young: newExtentMap()}
	if s.extentsOf(parts) > s.cfg.youngExtents {
		if x.stack, err = s.newStack(parts, maxRunLevel+1, nil); err != nil {
			return nil, 0, err
		}
		x.stackUpTo = parts[len(parts)-1].id
		return x, size, nil
	}
	defer s.releaseParts(parts)
	t, err := tableOf(parts)
	if err != nil {
		return nil, 0, err
	}
	x.young = loadExtentMap(t)
	return x, size, nil
}

// extentsOf estimates the extents that the segments of parts have.
func (s *Store) extentsOf(parts []pathPart) (n int) {
	for _, part := range parts {
		if part.sealed {
			n += part.extents
		} else {
			n += 2 * len(part.changes)
		}
	}
	return n
}

func (s *Store) releaseParts(parts []pathPart) {
	for _, part := range parts {
		s.releaseSegment(part.segment)
	}
}

// refreshLive makes the stack of the live index anew: with what was put aside,
// if that is sealed by now; with the runs that there are now; and without what
// the base has by now.
func (s *Store) refreshLive() error {
	s.refreshMu.Lock()
	defer s.refreshMu.Unlock()
	for {
		plan, err := s.planRefresh()
		if err != nil || plan == nil {
			return err
		}
		st, err := s.newStack(plan.parts, maxRunLevel+1, plan.from)
		s.releaseStack(plan.from)
		if err != nil {
			return err
		}
		if s.installStack(plan, st) {
			return nil
		}
	}
}

// refresh is what a new stack is made of.
type refresh struct {
	index *liveIndex
	from  *stack // held; may be nil
	upTo  segmentID
	base  Position
	parts []pathPart // held
}

// planRefresh is nil if all of the live index is in memory and is to stay there.
func (s *Store) planRefresh() (*refresh, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	x := s.index
	if err := s.usable(); err != nil || x.stack == nil && x.old == nil {
		return nil, err
	}
	path, err := s.tree.path(s.state.Base, s.tipLocked())
	if err != nil {
		return nil, err
	}
	parts := s.partsLocked(path)
	p := &refresh{index: x, from: x.stack, upTo: x.stackUpTo, base: s.state.Base}
	if x.old != nil && sealedUpTo(parts, x.oldUpTo) {
		p.upTo = x.oldUpTo
	} else if x.stack == nil {
		return nil, nil
	}
	for _, part := range parts {
		if part.id <= p.upTo {
			part.users.Add(1)
			p.parts = append(p.parts, part)
		}
	}
	if p.from != nil {
		p.from.users.Add(1)
	}
	return p, nil
}

func sealedUpTo(parts []pathPart, upTo segmentID) bool {
	for _, part := range parts {
		if part.id <= upTo && !part.sealed {
			return false
		}
	}
	return true
}

// installStack puts a new stack into the live index, unless that is another one
// by now or the base has moved.
func (s *Store) installStack(p *refresh, st *stack) bool {
	s.mu.Lock()
	x := s.index
	ok := x == p.index && x.stack == p.from && s.state.Base == p.base
	replaced := st
	if ok {
		replaced, x.stack, x.stackUpTo = x.stack, st, p.upTo
		if x.old != nil && x.oldUpTo <= p.upTo {
			x.old = nil
		}
	}
	s.mu.Unlock()
	s.releaseStack(replaced)
	return ok
}
