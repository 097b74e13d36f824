package journal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// A sector on its way from a record to the base is in two checksums: that of the
// record's payload, which is compared, and the base's own, which is made. Both
// follow from the CRC of the sector alone, so that its bytes are gone through once:
// the CRC of two runs of bytes in a row is that of the first, shifted by the length
// of the second, plus (xor) that of the second.

// sectorShift has what each byte of a CRC becomes behind a sector of zeroes. Shifting
// is linear, so the parts of a CRC can be shifted one by one.
var sectorShift = makeSectorShift()

func makeSectorShift() (shift [4][256]uint32) {
	for bit := range 32 {
		crc := uint32(1) << bit
		for range SectorBytes {
			crc = castagnoli[byte(crc)] ^ crc>>8
		}
		for b := range 256 {
			if b>>(bit%8)&1 != 0 {
				shift[bit/8][b] ^= crc
			}
		}
	}
	return shift
}

// shiftSector returns the CRC of bytes and a sector behind them, but for the
// sector's own part of it.
func shiftSector(crc uint32) uint32 {
	return sectorShift[0][byte(crc)] ^ sectorShift[1][byte(crc>>8)] ^ sectorShift[2][byte(crc>>16)] ^ sectorShift[3][crc>>24]
}

var zeroSectorCRC = crc32.Checksum(zeroSector[:], castagnoli)

// encodeRecord writes the entries of whole sectors to entries, and returns the CRC32C
// of all of p.
func (b *baseSums) encodeRecord(c *sumScratch, entries, p []byte, off int64) (crc uint32) {
	for i := 0; i < len(p); i += SectorBytes {
		sector := p[i : i+SectorBytes]
		own := crc32.Checksum(sector, castagnoli)
		crc = shiftSector(crc) ^ own
		entry := uint32(0)
		if own != zeroSectorCRC || !bytes.Equal(sector, zeroSector[:]) {
			binary.LittleEndian.PutUint64(c.number[:], uint64(off+int64(i))/SectorBytes)
			entry = max(shiftSector(crc32.Update(b.seed, castagnoli, c.number[:]))^own, 1)
		}
		binary.LittleEndian.PutUint32(entries[i/SectorBytes*sumBytes:], entry)
	}
	return crc
}
