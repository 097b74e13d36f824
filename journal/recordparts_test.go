package journal

import (
	"math/rand/v2"
	"testing"
)

// TestChecksumsOfParts: one pass makes the payload's checksum and those of its parts.
func TestChecksumsOfParts(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	for _, sectors := range []int64{1, 8, 32, 33, 39, 40, 41, 128, 2047, 2048} {
		p := randomBytes(rng, sectors*SectorBytes)
		crc, parts := sumPayload(p)
		if want := PayloadChecksum(p); crc != want {
			t.Errorf("%d sectors: crc %08x of the payload, want %08x", sectors, crc, want)
		}
		if len(p) <= wholeBytes {
			if parts != nil {
				t.Errorf("%d sectors: %d parts of a payload that is read as a whole", sectors, len(parts))
			}
			continue
		}
		if want := (len(p) + partBytes - 1) / partBytes; len(parts) != want {
			t.Fatalf("%d sectors: %d parts, want %d", sectors, len(parts), want)
		}
		for i, got := range parts {
			if want := PayloadChecksum(p[i*partBytes : min((i+1)*partBytes, len(p))]); got != want {
				t.Errorf("%d sectors: crc %08x of part %d, want %08x", sectors, got, i, want)
			}
		}
	}
}
