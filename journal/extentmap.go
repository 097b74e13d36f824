package journal

import "github.com/tidwall/btree"

// extentMap is the index of a changing view: disjoint extents, newest version
// only. What it does not cover is in the base. It does no locking.
type extentMap struct {
	tree    *btree.BTreeG[extent]
	overlap []extent // scratch of insert
}

func newExtentMap() *extentMap {
	return &extentMap{tree: btree.NewBTreeGOptions(extentBefore, btree.Options{NoLocks: true, Degree: 64})}
}

// loadExtentMap makes a map of the disjoint, ascending extents of a table.
func loadExtentMap(t table) *extentMap {
	m := newExtentMap()
	for _, e := range t {
		m.tree.Load(e)
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
	m.findOverlap(start, end)
	if len(m.overlap) == 1 && m.overlap[0].span == fresh.span {
		m.tree.Set(fresh) // the usual overwrite of the same blocks
		return
	}
	m.cut(start, end)
	m.tree.Set(fresh)
}

// remove forgets [start, end) where it is mapped to a segment up to and
// including last: there the base now has the same bytes.
func (m *extentMap) remove(start, end uint64, last segmentID) {
	m.findOverlap(start, end)
	for _, e := range append([]extent(nil), m.overlap...) {
		if e.loc.segment() <= last {
			m.findOverlap(max(start, e.start()), min(end, e.end()))
			m.cut(max(start, e.start()), min(end, e.end()))
		}
	}
}

// relocate makes [start, end), as far as it is mapped to the bytes at from, lead
// to those at to.
func (m *extentMap) relocate(start, end uint64, from, to location) {
	m.findOverlap(start, end)
	for _, old := range append([]extent(nil), m.overlap...) {
		part := old.slice(start, end)
		if behind := part.start() - start; part.loc == from.advance(behind) {
			m.insert(part.start(), part.end(), to.advance(behind))
		}
	}
}

// findOverlap collects the extents that share sectors with [start, end).
func (m *extentMap) findOverlap(start, end uint64) {
	m.overlap = m.overlap[:0]
	m.tree.Ascend(makeExtent(start+1, start+1, 0), func(e extent) bool {
		if e.start() >= end {
			return false
		}
		m.overlap = append(m.overlap, e)
		return true
	})
}

// cut takes [start, end) out of the extents that findOverlap collected.
func (m *extentMap) cut(start, end uint64) {
	for _, e := range m.overlap {
		m.tree.Delete(e)
		if e.start() < start {
			m.tree.Set(e.slice(e.start(), start))
		}
		if e.end() > end {
			m.tree.Set(e.slice(end, e.end()))
		}
	}
}

// lookup calls fn for the mapped parts of [start, end) in ascending order
// until fn returns false. It never fails.
func (m *extentMap) lookup(start, end uint64, fn func(extent) bool) error {
	m.tree.Ascend(makeExtent(start+1, start+1, 0), func(e extent) bool {
		return e.start() < end && fn(e.slice(start, end))
	})
	return nil
}

func (m *extentMap) len() int { return m.tree.Len() }

// table returns the extents, ascending.
func (m *extentMap) table() table {
	t := make(table, 0, m.tree.Len())
	m.tree.Scan(func(e extent) bool {
		t = append(t, e)
		return true
	})
	return t
}
