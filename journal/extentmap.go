package journal

import "slices"

// extentMap is the index of a changing view: disjoint extents, newest version
// only. What it does not cover is in the base. It does no locking.
//
// The extents are in leaves, in order, none of which is empty; a leaf is found by its
// end in a list. Two levels are enough for what memory may hold: a million extents are
// some 12,000 leaves, whose ends are 100 KiB in a row, and one insertion in fifty makes
// a leaf.
type extentMap struct {
	leaves []*extentLeaf
	ends   []uint64 // of the leaves
	count  int      // extents
}

const (
	// loadedExtents is how full a leaf is made that others will be put into.
	loadedExtents = leafExtents * 3 / 4
	// sparseExtents is how many extents a leaf has at least, unless its neighbours have no
	// room for them.
	sparseExtents = leafExtents / 4
)

func newExtentMap() *extentMap { return &extentMap{} }

// loadExtentMap makes a map of the disjoint, ascending extents of a table.
func loadExtentMap(t table) *extentMap {
	m := &extentMap{count: len(t)}
	for len(t) > 0 {
		l := &extentLeaf{}
		l.n = copy(l.extents[:loadedExtents], t)
		m.leaves, m.ends = append(m.leaves, l), append(m.ends, l.end())
		t = t[l.n:]
	}
	return m
}

// insert maps sectors [start, end) to loc, hiding what was there. Runs longer
// than an extent can hold are split.
func (m *extentMap) insert(start, end uint64, loc location) {
	for end-start > maxExtentSectors {
		m.insert(start, start+maxExtentSectors, loc)
		start += maxExtentSectors
		loc = loc.advance(maxExtentSectors)
	}
	fresh := makeExtent(start, end, loc)
	leaf, i := m.seek(start)
	if leaf < len(m.leaves) {
		e := &m.leaves[leaf].extents[i]
		if e.span == fresh.span {
			e.loc = loc // the usual overwrite of the same blocks
			return
		}
		if e.start() < end {
			m.cut(start, end)
			leaf, i = m.seek(start)
		}
	}
	m.splice(leaf, i, i, fresh)
}

// cut forgets [start, end).
func (m *extentMap) cut(start, end uint64) {
	for {
		leaf, i := m.seek(start)
		if leaf == len(m.leaves) {
			return
		}
		l := m.leaves[leaf]
		to := l.seekStart(i, end)
		if to == i {
			return
		}
		var rests [2]extent
		n := 0
		if first := l.extents[i]; first.start() < start {
			rests[n] = first.slice(first.start(), start)
			n++
		}
		if last := l.extents[to-1]; last.end() > end {
			rests[n] = last.slice(end, last.end())
			n++
		}
		m.splice(leaf, i, to, rests[:n]...)
	}
}

// remove forgets [start, end) where it is mapped to a segment up to and
// including last: there the base now has the same bytes.
func (m *extentMap) remove(start, end uint64, last segmentID) {
	m.eachPart(start, end, func(part extent) {
		if part.loc.segment() <= last {
			m.cut(part.start(), part.end())
		}
	})
}

// relocate makes [start, end), as far as it is mapped to the bytes at from, lead
// to those at to.
func (m *extentMap) relocate(start, end uint64, from, to location) {
	m.eachPart(start, end, func(part extent) {
		if behind := part.start() - start; part.loc == from.advance(behind) {
			m.insert(part.start(), part.end(), to.advance(behind))
		}
	})
}

// eachPart calls fn for the mapped parts of [start, end) in ascending order; fn may
// change what the part is mapped to.
func (m *extentMap) eachPart(start, end uint64, fn func(part extent)) {
	for start < end {
		leaf, i := m.seek(start)
		if leaf == len(m.leaves) || m.leaves[leaf].extents[i].start() >= end {
			return
		}
		part := m.leaves[leaf].extents[i].slice(start, end)
		fn(part)
		start = part.end()
	}
}

// lookup calls fn for the mapped parts of [start, end) in ascending order
// until fn returns false. It never fails.
func (m *extentMap) lookup(start, end uint64, fn func(extent) bool) error {
	leaf, i := m.seek(start)
	for ; leaf < len(m.leaves); leaf, i = leaf+1, 0 {
		l := m.leaves[leaf]
		for ; i < l.n; i++ {
			if e := l.extents[i]; e.start() >= end || !fn(e.slice(start, end)) {
				return nil
			}
		}
	}
	return nil
}

func (m *extentMap) len() int { return m.count }

// table returns the extents, ascending.
func (m *extentMap) table() table {
	t := make(table, 0, m.count)
	for _, l := range m.leaves {
		t = append(t, l.extents[:l.n]...)
	}
	return t
}

// seek returns where the first extent is that ends behind a sector; the leaf is
// len(leaves) if there is none.
func (m *extentMap) seek(sector uint64) (leaf, i int) {
	lo, hi := 0, len(m.ends)
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); m.ends[mid] <= sector {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(m.ends) {
		return lo, 0
	}
	return lo, m.leaves[lo].seek(sector)
}

// splice puts extents in the place of those of a leaf from i to before to, one more at
// most. leaf and i are what seek says.
func (m *extentMap) splice(leaf, i, to int, put ...extent) {
	if leaf == len(m.leaves) { // behind all others
		if leaf == 0 {
			m.addLeaf(0, &extentLeaf{})
		}
		leaf = len(m.leaves) - 1
		i = m.leaves[leaf].n
		to = i
	}
	l := m.leaves[leaf]
	if l.n-(to-i)+len(put) > leafExtents {
		at := l.n / 2
		if i == l.n {
			at = i // what only grows fills leaf by leaf
		}
		m.addLeaf(leaf+1, l.split(at))
		m.ends[leaf] = l.end()
		if i >= at {
			leaf, i, to = leaf+1, i-at, to-at
			l = m.leaves[leaf]
		}
	}
	l.splice(i, to, put)
	m.count += len(put) - (to - i)
	if l.n == 0 {
		m.dropLeaf(leaf)
		return
	}
	m.ends[leaf] = l.end()
	if len(put) < to-i && l.n < sparseExtents && !m.join(leaf) {
		m.join(leaf - 1)
	}
}

// join moves what the next leaf has into a leaf, if that leaves room for more.
func (m *extentMap) join(leaf int) bool {
	if leaf < 0 || leaf+1 >= len(m.leaves) {
		return false
	}
	l, next := m.leaves[leaf], m.leaves[leaf+1]
	if l.n+next.n > loadedExtents {
		return false
	}
	l.splice(l.n, l.n, next.extents[:next.n])
	m.ends[leaf] = l.end()
	m.dropLeaf(leaf + 1)
	return true
}

func (m *extentMap) addLeaf(leaf int, l *extentLeaf) {
	end := uint64(0) // of an empty one, until splice has put something there
	if l.n > 0 {
		end = l.end()
	}
	m.leaves, m.ends = slices.Insert(m.leaves, leaf, l), slices.Insert(m.ends, leaf, end)
}

func (m *extentMap) dropLeaf(leaf int) {
	m.leaves, m.ends = slices.Delete(m.leaves, leaf, leaf+1), slices.Delete(m.ends, leaf, leaf+1)
}
