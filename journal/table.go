package journal

import "sort"

// table is an immutable index: disjoint extents in ascending order. Sealed
// segments carry one.
type table []extent

// first returns the first mapped part of [start, end); ok is false if there is
// none. It implements layer.
func (t table) first(start, end uint64, _ bool) (e extent, ok bool, err error) {
	i := sort.Search(len(t), func(i int) bool { return t[i].end() > start })
	if i == len(t) || t[i].start() >= end {
		return extent{}, false, nil
	}
	return t[i].slice(start, end), true, nil
}

func (t table) cursor() cursor { return &tableCursor{t} }

// overlay merges two tables; where both map a sector, newer wins.
func overlay(older, newer table) table {
	if len(older) == 0 {
		return newer
	}
	if len(newer) == 0 {
		return older
	}
	merged := make(table, 0, len(older)+len(newer))
	rest, more := older[1:], true // of older, behind cur
	cur := older[0]               // its part that is not merged yet
	next := func() {
		if more = len(rest) > 0; more {
			cur, rest = rest[0], rest[1:]
		}
	}
	for _, n := range newer {
		start, end := n.start(), n.end()
		for more && cur.end() <= start {
			merged = append(merged, cur)
			next()
		}
		if more && cur.start() < start {
			merged = append(merged, cur.slice(cur.start(), start))
		}
		merged = append(merged, n)
		for more && cur.end() <= end {
			next()
		}
		if more && cur.start() < end {
			cur = cur.slice(end, cur.end())
		}
	}
	if more {
		merged = append(append(merged, cur), rest...)
	}
	return merged
}

// overlayAll merges tables given from oldest to newest. The merges form a
// balanced tree, so that n tables cost log n passes over their extents.
func overlayAll(tables []table) table {
	switch n := len(tables); n {
	case 0:
		return nil
	case 1:
		return tables[0]
	default:
		return overlay(overlayAll(tables[:n/2]), overlayAll(tables[n/2:]))
	}
}
