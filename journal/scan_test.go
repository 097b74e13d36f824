package journal

import (
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// TestScanReadsEveryByteOnce: records of whatever length, of which none fits what is
// read at once a whole number of times.
func TestScanReadsEveryByteOnce(t *testing.T) {
	for _, length := range []int64{SectorBytes, 4096, 200 << 10, 256 << 10, 512 << 10, 640 << 10, MaxPayloadBytes} {
		rng := rand.New(rand.NewPCG(1, uint64(length)))
		l := newLongRecords(t, 0)
		records := max(6<<20/length, 6)
		records = min(records, 3000)
		for range records {
			l.write(t, rng, rng.Int64N((longVolumeBytes-length)/SectorBytes+1)*SectorBytes, length)
		}
		g := l.s.active
		scanned := int64(0)
		_, bytes := l.fs.since(func() {
			scanner := newFrameScanner(g, g.end)
			for {
				_, err := scanner.scan()
				if errors.Is(err, io.EOF) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				scanned++
			}
		})
		if want := g.end - blockBytes; scanned != records || bytes != want {
			t.Errorf("records of %d bytes: read %d of them and %d bytes, want %d and %d", length, scanned, bytes, records, want)
		}
		mustClose(t, l.s)
	}
}
