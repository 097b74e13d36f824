package journal

// crcShift puts the CRCs of two runs of bytes in a row together: that of both is that of
// the first, shifted by the length of the second, plus (xor) that of the second. It has
// what each byte of a CRC becomes behind so many zeroes. Shifting is linear, so the
// bytes of a CRC can be shifted one by one.
type crcShift [4][256]uint32

var (
	partShift   = makeCRCShift(partBytes)
	sectorShift = makeCRCShift(SectorBytes)
)

func makeCRCShift(bytes int) *crcShift {
	var shift crcShift
	for bit := range 32 {
		crc := uint32(1) << bit
		for range bytes {
			crc = castagnoli[byte(crc)] ^ crc>>8
		}
		for b := range 256 {
			if b>>(bit%8)&1 != 0 {
				shift[bit/8][b] ^= crc
			}
		}
	}
	return &shift
}

// behind returns the CRC of bytes, given theirs, and a run behind them, but for the run's own
// part of it.
func (s *crcShift) behind(crc uint32) uint32 {
	return s[0][byte(crc)] ^ s[1][byte(crc>>8)] ^ s[2][byte(crc>>16)] ^ s[3][crc>>24]
}
