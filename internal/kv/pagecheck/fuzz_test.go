package pagecheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// patchBytes is one change of the sample: four bytes of where, four of what is
// there then.
const patchBytes = 8

// FuzzPatched changes a healthy file, mends the checksums of its meta pages,
// and has bbolt use what passes.
func FuzzPatched(f *testing.F) {
	whole := sample(f)
	patch := func(patches ...uint32) []byte {
		var b []byte
		for _, p := range patches {
			b = binary.LittleEndian.AppendUint32(b, p)
		}
		return b
	}
	f.Add([]byte{})
	f.Add(patch(atPageBytes, 8192, samplePage+atPageBytes, 8192))
	f.Add(patch(atRoot, 3, samplePage+atRoot, 3))
	f.Add(patch(atFreelist, 1<<32-1, atFreelist+4, 1<<32-1, samplePage+atFreelist, 1<<32-1, samplePage+atFreelist+4, 1<<32-1))
	for page := uint32(2); page < uint32(len(whole)/samplePage); page++ {
		f.Add(patch(page*samplePage+atCount, 0x00010001))
		f.Add(patch(page*samplePage+headerBytes, 1, page*samplePage+headerBytes+4, 16))
		f.Add(patch(page*samplePage+headerBytes+elementBytes+8, 0, page*samplePage+headerBytes+12, 1<<31))
	}
	f.Fuzz(func(t *testing.T, patches []byte) {
		im := image(bytes.Clone(whole))
		for ; len(patches) >= patchBytes; patches = patches[patchBytes:] {
			at := binary.LittleEndian.Uint32(patches) % uint32(len(im)-3)
			copy(im[at:at+4], patches[4:patchBytes])
		}
		im.mendSums()
		checkThenUse(t, im)
	})
}

// FuzzAnyFile takes the input for the file.
func FuzzAnyFile(f *testing.F) {
	whole := sample(f)
	f.Add([]byte(nil))
	f.Add([]byte(whole))
	f.Add([]byte(whole[:5*samplePage+1]))
	f.Fuzz(func(t *testing.T, file []byte) { checkThenUse(t, file) })
}

func checkThenUse(t *testing.T, im image) {
	err := im.check()
	if err != nil {
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("got %v, want a named error", err)
		}
		return
	}
	if err := exercise(im); err != nil {
		t.Fatal(err)
	}
}
