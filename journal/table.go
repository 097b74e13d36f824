package journal

import (
	"slices"
	"sort"
)

// table is an immutable index: disjoint extents in ascending order. Sealed
// segments carry one, and a view's is merged from those on its path.
type table []extent

// lookup calls fn for the mapped parts of [start, end) in ascending order
// until fn returns false.
func (t table) lookup(start, end uint64, fn func(extent) bool) {
	i := sort.Search(len(t), func(i int) bool { return t[i].end() > start })
	for ; i < len(t) && t[i].start() < end; i++ {
		if !fn(t[i].slice(start, end)) {
			return
		}
	}
}

// overlay merges two tables; where both map a sector, newer wins.
func overlay(older, newer table) table {
	if len(older) == 0 {
		return newer
	}
	if len(newer) == 0 {
		return older
	}
	merged := make(table, 0, len(older)+len(newer))
	i, pos := 0, uint64(0) // pos: sectors before it are merged
	emitOlder := func(limit uint64) {
		for i < len(older) && older[i].start() < limit {
			e := older[i]
			if from := max(pos, e.start()); from < min(e.end(), limit) {
				merged = append(merged, e.slice(from, min(e.end(), limit)))
			}
			if e.end() > limit {
				return // its rest lies beyond the limit
			}
			i++
		}
	}
	for _, n := range newer {
		emitOlder(n.start())
		merged = append(merged, n)
		pos = n.end()
	}
	emitOlder(1 << (64 - extentLengthBits))
	return merged
}

// overlayAll merges tables given from oldest to newest, pairwise, so that n
// tables cost log n passes over their extents.
func overlayAll(tables []table) table {
	if len(tables) == 0 {
		return nil
	}
	tables = slices.Clone(tables)
	for len(tables) > 1 {
		half := tables[:0]
		for i := 0; i < len(tables); i += 2 {
			if i+1 < len(tables) {
				half = append(half, overlay(tables[i], tables[i+1]))
			} else {
				half = append(half, tables[i])
			}
		}
		tables = half
	}
	return tables[0]
}
