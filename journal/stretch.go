package journal

import "encoding/binary"

// stretch reads pieces of a segment for the base: those that follow one another on
// disk, frame behind frame, in one call, each to where it is written from, and the
// frames' headers beside them. What is a whole record is checked against its checksum
// in the pass that makes those of the base.
type stretch struct {
	s       *Store
	scratch *readScratch
	pieces  []piece
	entries [][]byte // for the base's checksums of each piece
	// of read
	headers []byte
	bufs    [][]byte
}

// maxStretch bounds the pieces of a stretch: a header and a payload each, which
// one system call can take (IOV_MAX is 1024).
const maxStretch = 256

// add takes a piece. It is read with the next ones, if those follow it on disk;
// otherwise what was taken before is read now.
func (r *stretch) add(x piece, entries []byte) error {
	if n := len(r.pieces); n > 0 {
		last := &r.pieces[n-1]
		follows := x.g == last.g && x.off == last.off+int64(len(last.dst))+frameHeaderBytes
		if !follows || n == maxStretch {
			if err := r.read(); err != nil {
				return err
			}
		}
	}
	r.pieces, r.entries = append(r.pieces, x), append(r.entries, entries)
	return nil
}

// read reads what was taken, and checks it. Damage is a *CorruptError.
func (r *stretch) read() error {
	if len(r.pieces) == 0 {
		return nil
	}
	defer func() {
		clear(r.pieces)
		r.pieces, r.entries = r.pieces[:0], r.entries[:0]
	}()
	if err := r.readFrames(); err != nil {
		return err
	}
	for i := range r.pieces {
		if err := r.check(&r.pieces[i], r.headers[i*frameHeaderBytes:][:frameHeaderBytes], r.entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// readFrames reads all pieces, each with the bytes in front of it.
func (r *stretch) readFrames() error {
	if r.headers == nil {
		r.headers = make([]byte, maxStretch*frameHeaderBytes)
	}
	defer func() { clear(r.bufs) }()
	r.bufs = r.bufs[:0]
	want := 0
	for i, x := range r.pieces {
		r.bufs = append(r.bufs, r.headers[i*frameHeaderBytes:][:frameHeaderBytes], x.dst)
		want += frameHeaderBytes + len(x.dst)
	}
	first := &r.pieces[0]
	if n, err := first.g.file.ReadVecAt(r.bufs, first.off-frameHeaderBytes); n < want {
		return unread(first.g.name, first.off-frameHeaderBytes, shortRead(err))
	}
	return nil
}

// check compares a piece, and makes its entries. A piece of a record is left to
// recordReader.
func (r *stretch) check(x *piece, header, entries []byte) error {
	sums := &r.s.sums
	crc := sums.encodeRecord(&r.scratch.sums, entries, x.dst, x.at)
	var place recordPlace
	if binary.LittleEndian.Uint32(header) == frameMagic {
		place, _ = placeOf(header, x, x.off) // who looks for the record tells what is wrong
	}
	if place.start == x.off && place.bytes == len(x.dst) {
		if crc != place.crc {
			return place.damage("", place.crc, crc)
		}
		return nil
	}
	if err := (&recordReader{r.s, r.scratch, true}).readFound(x, place); err != nil {
		return err
	}
	sums.encodeRecord(&r.scratch.sums, entries, x.dst, x.at) // what was found right
	return nil
}
