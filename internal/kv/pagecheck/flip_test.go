package pagecheck

import (
	"bytes"
	"errors"
	"testing"
)

// TestEveryByteFlipped: a changed byte is found, or bbolt reads all and writes
// to every bucket without a panic, and leaves a file that passes. Of what passes
// in free pages and in runs of equal bytes, which are values or unused, bbolt
// gets a part only.
func TestEveryByteFlipped(t *testing.T) {
	im := sample(t)
	whole, free := bytes.Clone(im), im.free(t)
	found, used := 0, 0
	for offset := range whole {
		run := offset > 0 && offset+1 < len(whole) && whole[offset-1] == whole[offset] && whole[offset] == whole[offset+1]
		for _, flip := range []byte{0xff, 0x01} {
			if run && flip != 0xff {
				continue
			}
			im[offset] = whole[offset] ^ flip // and back below
			err := im.check()
			if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("byte %d ^ %#x: got %v, want ErrCorrupt", offset, flip, err)
			}
			if err != nil {
				found++
				continue
			}
			if (run || free[pageID(offset/samplePage)]) && offset%61 != 0 {
				continue
			}
			used++
			if err := exercise(im); err != nil {
				t.Fatalf("byte %d ^ %#x passes: %v", offset, flip, err)
			}
		}
		im[offset] = whole[offset]
	}
	t.Logf("%d bytes, %d flips found, %d used", len(whole), found, used)
	if found == 0 || used == 0 {
		t.Fatalf("%d bytes, %d flips found, %d used", len(whole), found, used)
	}
}

// TestEveryLength cuts a file that has not a byte more than it needs.
func TestEveryLength(t *testing.T) {
	whole := sample(t)
	for length := range whole {
		if err := whole[:length].check(); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: got %v, want ErrCorrupt", length, err)
		}
	}
}
