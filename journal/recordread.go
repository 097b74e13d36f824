package journal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A record's checksum is over its whole payload, and no byte of it is given away
// before that was found right. Where a read wants all of a record, as it does when
// blocks are read in the size in which they were written, that costs the checksum.
// Where it wants a part, the record has to be found first (see recordfind.go), and
// the rest of it has to be read, but for long ones (see recordparts.go).

const (
	// joinedBytes is how much is read together with the frame's header in front
	// of it, and copied. More is read where it belongs, and the header alone.
	joinedBytes = 64 << 10
)

// readScratch is the memory for reading and checking; for one goroutine at a time.
type readScratch struct {
	sums  sumScratch
	bytes []byte
}

func (c *readScratch) room(n int) []byte {
	if cap(c.bytes) < n {
		c.bytes = make([]byte, n)
	}
	return c.bytes[:n]
}

// recordPlace is a write record's payload in a segment.
type recordPlace struct {
	g     *segment
	start int64 // file offset
	bytes int
	crc   uint32
	seq   Seq
}

// recordReader reads pieces of segments and checks them. Without wait its errors
// are errWouldWait where a disk would have to be waited for.
type recordReader struct {
	s       *Store
	scratch *readScratch
	wait    bool
}

// readJournal reads a piece that is in a segment, and checks it. Damage is a
// *CorruptError.
func (s *Store) readJournal(c *readScratch, x *piece) error {
	return (&recordReader{s, c, true}).readPiece(x)
}

// tryReadJournal is readJournal where no disk has to be waited for. Where one would,
// and for damage, which is readJournal's to tell, done is false.
func (s *Store) tryReadJournal(c *readScratch, x *piece) (done bool, err error) {
	err = (&recordReader{s, c, false}).readPiece(x)
	if errors.Is(err, errWouldWait) || errors.Is(err, ErrCorrupt) {
		return false, nil
	}
	return err == nil, err
}

func (r *recordReader) read(g *segment, p []byte, off int64) error {
	err := r.readFile(g.file, p, off)
	if err != nil && !errors.Is(err, errWouldWait) {
		return unread(g.name, off, err)
	}
	return err
}

func (r *recordReader) readFile(f vfs.File, p []byte, off int64) error {
	if r.wait {
		return readFull(f, p, off)
	}
	done, err := f.TryReadAt(p, off)
	if err == nil && !done {
		return errWouldWait
	}
	return err
}

// readPiece reads a piece as the payload of a record that begins with it, and looks
// for the record where that is not so.
func (r *recordReader) readPiece(x *piece) error {
	place, err := r.readAsRecord(x)
	if err != nil {
		return err
	}
	return r.readFound(x, place)
}

// readFound checks a piece that was read, which is of the record at place, if that
// has bytes; else the record is looked for.
func (r *recordReader) readFound(x *piece, place recordPlace) (err error) {
	if place.bytes == 0 {
		if place, err = r.find(x); err != nil {
			return err
		}
	}
	switch {
	case place.start == x.off && place.bytes == len(x.dst):
		return place.check(x.dst)
	case place.bytes <= wholeBytes:
		_, err := r.readWhole(x, place)
		return err
	}
	return r.readLong(x, place)
}

// readAsRecord reads a piece and what should be its frame's header. The result has
// no bytes if it is none.
func (r *recordReader) readAsRecord(x *piece) (recordPlace, error) {
	n := frameHeaderBytes
	if len(x.dst) <= joinedBytes {
		n += len(x.dst)
	}
	b := r.scratch.room(n)
	if err := r.read(x.g, b, x.off-frameHeaderBytes); err != nil {
		return recordPlace{}, err
	}
	if copy(x.dst, b[frameHeaderBytes:]) == 0 {
		if err := r.read(x.g, x.dst, x.off); err != nil {
			return recordPlace{}, err
		}
	}
	if binary.LittleEndian.Uint32(b) != frameMagic {
		return recordPlace{}, nil
	}
	place, err := placeOf(b, x, x.off)
	if err != nil {
		return recordPlace{}, nil // who looks for the record tells what is wrong
	}
	return place, nil
}

// placeOf is the record whose frame's header is b and whose payload begins at
// start, if it holds the piece. Damage has no place yet.
func placeOf(b []byte, x *piece, start int64) (recordPlace, error) {
	f, payloadBytes, _, err := decodeFrameHeader(b, x.g.volume)
	if err != nil {
		return recordPlace{}, err
	}
	into := x.off - start
	if f.Kind != KindWrite || f.Position.Timeline != x.g.timeline || f.Offset+into != x.at || into+int64(len(x.dst)) > int64(payloadBytes) {
		return recordPlace{}, wireCorrupt("record", fmt.Sprintf("one that wrote %d bytes at %d of the volume", len(x.dst), x.at),
			fmt.Sprintf("%s of %d bytes at %d", f.Kind, payloadBytes, f.Offset))
	}
	return recordPlace{x.g, start, payloadBytes, f.PayloadCRC, f.Position.Seq}, nil
}

// check compares a payload with its checksum.
func (at *recordPlace) check(payload []byte) error {
	if got := PayloadChecksum(payload); got != at.crc {
		return at.damage("", at.crc, got)
	}
	return nil
}

func (at *recordPlace) damage(part string, wanted, found uint32) error {
	return &CorruptError{File: at.g.name, Offset: at.start - frameHeaderBytes, What: fmt.Sprintf("payload of seq %d%s", at.seq, part),
		Wanted: fmt.Sprintf("crc %08x", wanted), Found: fmt.Sprintf("crc %08x", found)}
}

// readWhole reads all of a record for the sake of a piece, and returns it; valid
// until the scratch is used next.
func (r *recordReader) readWhole(x *piece, place recordPlace) (payload []byte, err error) {
	payload = r.scratch.room(place.bytes)
	if err := r.read(place.g, payload, place.start); err != nil {
		return nil, err
	}
	if err := place.check(payload); err != nil {
		return nil, err
	}
	copy(x.dst, payload[x.off-place.start:])
	return payload, nil
}
