package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Every sector of the base image has a checksum in a file beside it, written by
// whoever writes the sector (destage, an import) and compared by whoever reads
// it. Checksums have the granularity at which the base is written: so nobody ever
// reads a sector, or its checksum, that a batch of destage is in the middle of,
// nor does a crash leave one that is read. Both still come from the journal then.

// sumBytes is the size of a sector's checksum.
const sumBytes = 4

// maxSummedBytes bounds what is checked in one go, and with it the memory for it.
const maxSummedBytes = 1 << 20

// baseSums is the file of the checksums. Entry n, at 4·n, is that of sector n:
//
//	0                                  the sector is zeroes
//	crc of volume id, n, the content   otherwise; 1 where that is 0
//
// There is no header: each entry is bound to its volume and its place.
type baseSums struct {
	file vfs.File
	seed uint32 // crc of the volume id
}

func newBaseSums(file vfs.File, volume VolumeID) baseSums {
	return baseSums{file: file, seed: crc32.Checksum(volume[:], castagnoli)}
}

// sumScratch is the memory for checking or making checksums; for one goroutine
// at a time.
type sumScratch struct {
	number  [8]byte
	entries []byte
}

// room returns memory for the entries of a range of the volume.
func (c *sumScratch) room(length int64) []byte {
	n := int(length / SectorBytes * sumBytes)
	if cap(c.entries) < n {
		c.entries = make([]byte, n, max(n, 64*sumBytes))
	}
	c.entries = c.entries[:n]
	return c.entries
}

// sumOffset is where the entry of the sector at off is.
func sumOffset(off int64) int64 { return off / SectorBytes * sumBytes }

var zeroSector [SectorBytes]byte

// of returns the entry of a sector.
func (b *baseSums) of(c *sumScratch, sector int64, content []byte) uint32 {
	if bytes.Equal(content, zeroSector[:]) {
		return 0
	}
	binary.LittleEndian.PutUint64(c.number[:], uint64(sector))
	sum := crc32.Update(crc32.Update(b.seed, castagnoli, c.number[:]), castagnoli, content)
	return max(sum, 1)
}

// encode returns the entries of whole sectors, valid until the next use of c.
func (b *baseSums) encode(c *sumScratch, p []byte, off int64) []byte {
	entries := c.room(int64(len(p)))
	for i := 0; i < len(p); i += SectorBytes {
		sum := b.of(c, (off+int64(i))/SectorBytes, p[i:i+SectorBytes])
		binary.LittleEndian.PutUint32(entries[i/SectorBytes*sumBytes:], sum)
	}
	return entries
}

// damagedSectors is a run of sectors that do not fit their checksums.
type damagedSectors struct {
	off, length   int64
	wanted, found uint32 // entries of the first
}

// err names the damage.
func (d *damagedSectors) err() *CorruptError {
	what := "sector"
	if n := d.length / SectorBytes; n > 1 {
		what = fmt.Sprintf("first of %d sectors", n)
	}
	return &CorruptError{File: baseFile, Offset: d.off, What: what, Wanted: sumText(d.wanted), Found: sumText(d.found)}
}

func sumText(sum uint32) string {
	if sum == 0 {
		return "zeroes"
	}
	return fmt.Sprintf("crc %08x", sum)
}

// firstDamage compares what was read of the base at off, whole sectors, with their
// entries, and returns the first run of sectors that do not fit; length 0 if there
// is none.
func (b *baseSums) firstDamage(c *sumScratch, p []byte, off int64, entries []byte) damagedSectors {
	var d damagedSectors
	for i := 0; i < len(p); i += SectorBytes {
		wanted := binary.LittleEndian.Uint32(entries[i/SectorBytes*sumBytes:])
		found := b.of(c, (off+int64(i))/SectorBytes, p[i:i+SectorBytes])
		switch {
		case wanted == found && d.length > 0:
			return d
		case wanted == found:
		case d.length == 0:
			d = damagedSectors{off + int64(i), SectorBytes, wanted, found}
		default:
			d.length += SectorBytes
		}
	}
	return d
}

// read reads the entries of a range. What lies behind the end of the file stands for
// zeroes.
func (b *baseSums) read(c *sumScratch, off, length int64) ([]byte, error) {
	if b.file == nil { // Open refuses such a store, but it can be looked at
		return nil, &CorruptError{File: baseSumsFile, What: "checksums of the base", Wanted: "a whole file", Found: "none"}
	}
	entries := c.room(length)
	n, err := b.file.ReadAt(entries, sumOffset(off))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %d bytes at %d of %s: %w", len(entries), sumOffset(off), baseSumsFile, err)
	}
	clear(entries[n:])
	return entries, nil
}

// readBase fills p with the base's bytes at off and checks those that have
// checksums. Damage is a *CorruptError, what the disk does not give an *unreadError.
func (s *Store) readBase(c *sumScratch, p []byte, off int64) error {
	if s.isOverlay() {
		return s.readOrigin(p, off)
	}
	if err := s.readBaseUnchecked(p, off); err != nil {
		return unread(baseFile, off, err)
	}
	for p = p[:s.summedOf(off, len(p))]; len(p) > 0; {
		n := min(len(p), maxSummedBytes)
		entries, err := s.sums.read(c, off, int64(n))
		if err != nil && !errors.Is(err, ErrCorrupt) {
			err = unread(baseFile, off, err) // both are repaired together
		}
		if err != nil {
			return err
		}
		if d := s.sums.firstDamage(c, p[:n], off, entries); d.length > 0 {
			return d.err()
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (s *Store) readBaseUnchecked(p []byte, off int64) error {
	if n, err := s.base.ReadAt(p, off); n != len(p) {
		return fmt.Errorf("read %d bytes at %d of %s: %w", len(p), off, baseFile, err)
	}
	return nil
}

// tryReadBase is readBase where no disk has to be waited for. Where one would, and
// for damage, which is readBase's to tell, done is false.
func (s *Store) tryReadBase(c *sumScratch, p []byte, off int64) (done bool, err error) {
	if len(p) > maxSummedBytes || s.sums.file == nil || s.isOverlay() {
		return false, nil
	}
	if done, err := s.base.TryReadAt(p, off); err != nil || !done {
		return false, err
	}
	p = p[:s.summedOf(off, len(p))]
	if len(p) == 0 {
		return true, nil
	}
	entries := c.room(int64(len(p)))
	if done, err := s.sums.file.TryReadAt(entries, sumOffset(off)); err != nil || !done {
		return false, err
	}
	d := s.sums.firstDamage(c, p, off, entries)
	return d.length == 0, nil
}

// summedOf is how many of length bytes at off have checksums.
func (s *Store) summedOf(off int64, length int) int64 {
	return min(max(s.summed.Load()-off, 0), int64(length))
}
