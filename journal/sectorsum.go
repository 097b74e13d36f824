package journal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// A sector on its way from a record to the base is in two checksums: that of the
// record's payload, which is compared, and the base's own, which is made. Both
// follow from the CRC of the sector alone, so that its bytes are gone through once
// (see crcShift).

var zeroSectorCRC = crc32.Checksum(zeroSector[:], castagnoli)

// encodeRecord writes the entries of whole sectors to entries, and returns the CRC32C
// of all of p.
func (b *baseSums) encodeRecord(c *sumScratch, entries, p []byte, off int64) (crc uint32) {
	for i := 0; i < len(p); i += SectorBytes {
		sector := p[i : i+SectorBytes]
		own := crc32.Checksum(sector, castagnoli)
		crc = sectorShift.behind(crc) ^ own
		entry := uint32(0)
		if own != zeroSectorCRC || !bytes.Equal(sector, zeroSector[:]) {
			binary.LittleEndian.PutUint64(c.number[:], uint64(off+int64(i))/SectorBytes)
			entry = max(sectorShift.behind(crc32.Update(b.seed, castagnoli, c.number[:]))^own, 1)
		}
		binary.LittleEndian.PutUint32(entries[i/SectorBytes*sumBytes:], entry)
	}
	return crc
}
