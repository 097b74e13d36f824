package conformance

import (
	"math/bits"

	"github.com/lockstep-csi/lockstep/engine"
)

// chunkSectors is the number of sectors in one chunk: one bit each in a word.
const chunkSectors = 64

// chunkBytes is the size of the pieces in which an image takes memory.
const chunkBytes = chunkSectors * engine.SectorBytes

// image is a sparse array of sectors. It is not safe for concurrent use.
type image struct {
	chunks map[int64]*chunk // by offset / chunkBytes; absent chunks are zero
}

// chunk holds chunkBytes bytes of an image.
type chunk struct {
	data  [chunkBytes]byte
	used  uint64 // sectors that hold data; the others are zero in data too
	dirty uint64 // sectors that changed since they were last made durable
}

func newImage() *image {
	return &image{chunks: make(map[int64]*chunk)}
}

// sectorMask has one bit set for each sector of [from, to), which are byte
// offsets within a chunk.
func sectorMask(from, to int) uint64 {
	first, count := from/engine.SectorBytes, (to-from)/engine.SectorBytes
	return (^uint64(0) >> (chunkSectors - count)) << first
}

// eachChunk calls fn for the part of [off, off+length) in each chunk.
func eachChunk(off, length int64, fn func(index int64, from, to int)) {
	for end := off + length; off < end; {
		index := off / chunkBytes
		from := int(off - index*chunkBytes)
		to := int(min(chunkBytes, end-index*chunkBytes))
		fn(index, from, to)
		off += int64(to - from)
	}
}

func (m *image) read(p []byte, off int64) {
	eachChunk(off, int64(len(p)), func(index int64, from, to int) {
		if c := m.chunks[index]; c != nil {
			copy(p, c.data[from:to])
		} else {
			clear(p[:to-from])
		}
		p = p[to-from:]
	})
}

func (m *image) write(p []byte, off int64) {
	eachChunk(off, int64(len(p)), func(index int64, from, to int) {
		c := m.chunks[index]
		if c == nil {
			c = new(chunk)
			m.chunks[index] = c
		}
		copy(c.data[from:to], p)
		c.used |= sectorMask(from, to)
		c.dirty |= sectorMask(from, to)
		p = p[to-from:]
	})
}

func (m *image) zero(off, length int64) {
	eachChunk(off, length, func(index int64, from, to int) {
		c := m.chunks[index]
		if c == nil {
			return
		}
		clear(c.data[from:to])
		c.used &^= sectorMask(from, to)
		c.dirty |= sectorMask(from, to)
	})
}

// settle copies what is dirty in [off, off+length) to durable. A chunk leaves
// an image only here and only when both hold nothing of it, so an absent chunk
// is never owed to the durable image.
func (m *image) settle(durable *image, off, length int64) {
	eachChunk(off, length, func(index int64, from, to int) {
		c := m.chunks[index]
		if c == nil {
			return
		}
		for todo := c.dirty & sectorMask(from, to); todo != 0; todo &= todo - 1 {
			start := bits.TrailingZeros64(todo) * engine.SectorBytes
			at := index*chunkBytes + int64(start)
			if c.used&sectorMask(start, start+engine.SectorBytes) != 0 {
				durable.write(c.data[start:start+engine.SectorBytes], at)
			} else {
				durable.zero(at, engine.SectorBytes)
			}
		}
		c.dirty &^= sectorMask(from, to)
		if d := durable.chunks[index]; c.used|c.dirty == 0 && (d == nil || d.used == 0) {
			delete(m.chunks, index)
			delete(durable.chunks, index)
		}
	})
}

// isDirty reports whether any sector of the range changed since settle.
func (m *image) isDirty(off, length int64) bool {
	dirty := false
	eachChunk(off, length, func(index int64, from, to int) {
		if c := m.chunks[index]; c != nil && c.dirty&sectorMask(from, to) != 0 {
			dirty = true
		}
	})
	return dirty
}

// status describes the range in at most limit runs.
func (m *image) status(off, length int64, limit int) []engine.BlockRange {
	var runs []engine.BlockRange
	for end := off + length; off < end; {
		run := m.runAt(off, end)
		if n := len(runs); n > 0 && runs[n-1].Zero == run.Zero {
			runs[n-1].Length += run.Length
		} else if n == limit {
			break
		} else {
			runs = append(runs, run)
		}
		off += run.Length
	}
	return runs
}

// runAt returns the run of equal sectors that begins at off, not beyond the
// chunk's or the range's end.
func (m *image) runAt(off, end int64) engine.BlockRange {
	index := off / chunkBytes
	limit := min(end, (index+1)*chunkBytes)
	c := m.chunks[index]
	if c == nil {
		return engine.BlockRange{Offset: off, Length: limit - off, Zero: true}
	}
	used := func(at int64) bool {
		return c.used>>((at-index*chunkBytes)/engine.SectorBytes)&1 != 0
	}
	at := off + engine.SectorBytes
	for at < limit && used(at) == used(off) {
		at += engine.SectorBytes
	}
	return engine.BlockRange{Offset: off, Length: at - off, Zero: !used(off)}
}
