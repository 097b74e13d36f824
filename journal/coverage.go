package journal

import "github.com/tidwall/btree"

// coverage is a set of sectors, kept as disjoint spans that do not touch.
type coverage struct{ spans *btree.BTreeG[span] }

type span struct{ start, end uint64 }

func newCoverage() *coverage {
	return &coverage{btree.NewBTreeGOptions(func(a, b span) bool { return a.end < b.end }, btree.Options{NoLocks: true, Degree: 64})}
}

// add puts [start, end) into the set and reports whether any of it was not in
// it before.
func (c *coverage) add(start, end uint64) (fresh bool) {
	joined, covered := span{start, end}, false
	var old []span
	c.spans.Ascend(span{end: start}, func(s span) bool { // the first that ends at start or behind it
		if s.start > end {
			return false
		}
		covered = s.start <= start && s.end >= end
		old = append(old, s)
		return !covered
	})
	if covered {
		return false
	}
	for _, s := range old {
		joined = span{min(joined.start, s.start), max(joined.end, s.end)}
		c.spans.Delete(s)
	}
	c.spans.Set(joined)
	return true
}
