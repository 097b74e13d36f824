package journal

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestChecksumsOfOnePass: they are those that are made one by one, of zeroes and of
// everything else, at the ends of the range of sectors, too.
func TestChecksumsOfOnePass(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	sums := newBaseSums(nil, testVolume)
	var c, d sumScratch
	for _, sectors := range []int64{1, 2, 3, 8, 129, 2048} {
		for _, off := range []int64{0, SectorBytes, 12345 * SectorBytes, maxVolumeBytes - sectors*SectorBytes} {
			p := randomBytes(rng, sectors*SectorBytes)
			for range sectors / 3 {
				clear(p[rng.Int64N(sectors)*SectorBytes:][:SectorBytes])
			}
			entries := make([]byte, sectors*sumBytes)
			if got, want := sums.encodeRecord(&c, entries, p, off), PayloadChecksum(p); got != want {
				t.Errorf("%d sectors: crc %08x of the payload, want %08x", sectors, got, want)
			}
			if want := sums.encode(&d, p, off); !bytes.Equal(entries, want) {
				t.Errorf("%d sectors at %d: entries %x, want %x", sectors, off, entries, want)
			}
		}
	}
}
