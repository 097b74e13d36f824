package bundle

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
)

// TestNewest reads logs of every length around the bound, in pieces.
func TestNewest(t *testing.T) {
	const keep = 1000
	all := make([]byte, 5*keep)
	for i := range all {
		all[i] = byte(i % 251)
	}
	for _, length := range []int{0, 1, keep - 1, keep, keep + 1, 2*keep - 1, 2 * keep, 2*keep + 1, 5 * keep} {
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(all[:length]), "bytes": iotest.OneByteReader(bytes.NewReader(all[:length])), "with EOF": iotest.DataErrReader(bytes.NewReader(all[:length])),
		} {
			got, err := newest(r, keep)
			if want := all[max(0, length-keep):length]; err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d, %s: %d bytes, %v, want the last %d", length, name, len(got), err, len(want))
			}
		}
	}
}
