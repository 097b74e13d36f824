package journal

// segmentID numbers the segment files of a store, rising from 1.
type segmentID uint64

// location says where the bytes of an extent are: in a segment's payload, or
// nowhere because they are zero. Bits 28 to 63 hold the segment, bits 0 to 27
// the file offset in units of 8 bytes; offset 0, which is inside the segment's
// header, stands for zeroes written by a record of that segment.
type location uint64

const (
	locationUnitBytes  = 8
	locationOffsetBits = 28
	// maxSegmentBytes is what a location can address in one segment: 2 GiB.
	maxSegmentBytes = locationUnitBytes << locationOffsetBits
	maxSegmentID    = 1<<(64-locationOffsetBits) - 1
)

func makeLocation(id segmentID, fileOffset int64) location {
	return location(uint64(id)<<locationOffsetBits | uint64(fileOffset/locationUnitBytes))
}

func (l location) segment() segmentID { return segmentID(l >> locationOffsetBits) }

func (l location) fileOffset() int64 {
	return int64(l&(1<<locationOffsetBits-1)) * locationUnitBytes
}

func (l location) isZeroes() bool { return l&(1<<locationOffsetBits-1) == 0 }

// advance moves the location forward by whole sectors; zeroes stay zeroes.
func (l location) advance(sectors uint64) location {
	if l.isZeroes() {
		return l
	}
	return l + location(sectors*(SectorBytes/locationUnitBytes))
}

// extent maps a run of sectors to its location, in 16 bytes: the upper 40 bits
// of span hold the sector behind the run, the lower 24 its length in sectors.
// Ordering disjoint extents by their end makes the first one that reaches past
// a sector a single search.
type extent struct {
	span uint64
	loc  location
}

const (
	extentLengthBits = 24
	maxExtentSectors = 1<<extentLengthBits - 1
	// maxVolumeBytes is what an extent can address: 512 TiB less one sector,
	// because the sector behind the last one must fit the span, too.
	maxVolumeBytes = SectorBytes * (1<<(64-extentLengthBits) - 1)
)

func makeExtent(start, end uint64, loc location) extent {
	return extent{span: end<<extentLengthBits | (end - start), loc: loc}
}

func (e extent) end() uint64     { return e.span >> extentLengthBits }
func (e extent) sectors() uint64 { return e.span & maxExtentSectors }
func (e extent) start() uint64   { return e.end() - e.sectors() }

// slice returns the part of e in [start, end), which must not be empty.
func (e extent) slice(start, end uint64) extent {
	start, end = max(start, e.start()), min(end, e.end())
	return makeExtent(start, end, e.loc.advance(start-e.start()))
}
