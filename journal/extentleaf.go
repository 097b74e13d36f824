package journal

// leafExtents is how many extents a leaf has room for, so that it takes 2 KiB.
const leafExtents = 127

// extentLeaf is a run of disjoint extents, in order.
type extentLeaf struct {
	n       int
	extents [leafExtents]extent
}

// end is the end of the last extent of a leaf that is not empty.
func (l *extentLeaf) end() uint64 { return l.extents[l.n-1].end() }

// seek returns the first extent that ends behind a sector; n if there is none.
func (l *extentLeaf) seek(sector uint64) int {
	behind := (sector + 1) << extentLengthBits // the spans of those that end there, or later
	lo, hi := 0, l.n
	for lo < hi {
		if mid := int(uint(lo+hi) / 2); l.extents[mid].span < behind {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// seekStart returns the first extent from i on that begins at a sector or behind it; n if there
// is none. It is a few steps away at most, as a rule.
func (l *extentLeaf) seekStart(i int, sector uint64) int {
	for i < l.n && l.extents[i].start() < sector {
		i++
	}
	return i
}

// splice puts extents in the place of those from i to before to. There must be room.
func (l *extentLeaf) splice(i, to int, put []extent) {
	copy(l.extents[i+len(put):], l.extents[to:l.n])
	copy(l.extents[i:], put)
	l.n += len(put) - (to - i)
}

// split moves the extents from i on to a new leaf.
func (l *extentLeaf) split(i int) *extentLeaf {
	right := &extentLeaf{}
	right.n = copy(right.extents[:], l.extents[i:l.n])
	l.n = i
	return right
}
