package journal

import (
	"fmt"
	"hash/crc32"
)

// A long record is not read as a whole for each part of it that is wanted: checksums of
// its parts are kept in memory, by who appends it at this site, because the CRC of the
// whole follows from them, or else by its first reader. They are as good as the
// record's own, which is made of them or was found right with them.

const (
	// partBytes is the size of the parts of a long record.
	partBytes = 4 << 10
	// wholeBytes is the length up to which a record is read as a whole each time.
	wholeBytes = 4 * partBytes
)

// recordParts is what is known of a long record that is a write.
type recordParts struct {
	at    int64 // offset in the volume
	bytes int
	crc   uint32 // of all of it
	seq   Seq
	sums  []uint32 // of its parts
}

func (k *recordParts) memoryBytes() int64 { return int64(len(k.sums))*4 + 64 }

// holds reports whether a piece is in the record, whose payload begins at start.
func (k *recordParts) holds(x *piece, start int64) bool {
	into := x.off - start
	return k.at+into == x.at && into >= 0 && into+int64(len(x.dst)) <= int64(k.bytes)
}

// sumPayload returns the checksum of a payload of whole sectors and, of a long one, those of its
// parts. Its bytes are gone through once.
func sumPayload(p []byte) (crc uint32, parts []uint32) {
	if len(p) <= wholeBytes {
		return PayloadChecksum(p), nil
	}
	parts = make([]uint32, 0, (len(p)+partBytes-1)/partBytes)
	for len(p) >= partBytes {
		own := crc32.Checksum(p[:partBytes], castagnoli)
		crc = partShift.behind(crc) ^ own
		parts = append(parts, own)
		p = p[partBytes:]
	}
	if len(p) > 0 {
		own := crc32.Checksum(p, castagnoli)
		for range len(p) / SectorBytes {
			crc = sectorShift.behind(crc)
		}
		crc ^= own
		parts = append(parts, own)
	}
	return crc, parts
}

// keepParts keeps what the appender of a long record knows of its parts. start is
// where its payload begins.
func (s *Store) keepParts(g *segment, start int64, r *Record) {
	s.parts.put(segmentPlace{g, start}, &recordParts{r.Offset, len(r.Payload), r.PayloadCRC, r.Position.Seq, r.parts})
}

// readLong checks a piece, which was read, against the checksums of the long
// record's parts. Without those it reads the record and makes them.
func (r *recordReader) readLong(x *piece, place recordPlace) error {
	key := segmentPlace{place.g, place.start}
	known, ok := r.s.parts.get(key)
	if !ok {
		payload, err := r.readWhole(x, place)
		if err == nil {
			_, sums := sumPayload(payload)
			r.s.parts.put(key, &recordParts{x.at - (x.off - place.start), place.bytes, place.crc, place.seq, sums})
		}
		return err
	}
	from := x.off - place.start
	to := from + int64(len(x.dst))
	for part := from / partBytes; part*partBytes < to; part++ {
		start, end := part*partBytes, min((part+1)*partBytes, int64(place.bytes))
		p := r.scratch.room(int(end - start))
		if inside := start >= from && end <= to; inside {
			p = x.dst[start-from : end-from]
		} else if err := r.read(place.g, p, place.start+start); err != nil {
			return err
		}
		if got := PayloadChecksum(p); got != known.sums[part] {
			return place.damage(fmt.Sprintf(", from byte %d on", start), known.sums[part], got)
		}
		// Of a part at an edge, what was checked is what is given away.
		copy(x.dst[max(start-from, 0):], p[max(from-start, 0):])
	}
	return nil
}
