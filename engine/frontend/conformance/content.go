package conformance

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
)

// pattern returns length bytes, a multiple of 8, that depend on seed and, with
// high probability, equal no other pattern's and no shifted copy of themselves.
func pattern(seed uint64, length int) []byte {
	p := make([]byte, length)
	source := rand.New(rand.NewPCG(seed, uint64(length)))
	for i := 0; i < length; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], source.Uint64())
	}
	return p
}

// firstDifference is the index at which two slices of equal length differ, or
// -1.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// write writes p through the target.
func (b *bench) write(p []byte, off int64) {
	b.Helper()
	b.must("write", func() error { return b.target.WriteAt(p, off, false) })
}

// read returns what the target reads. The buffer starts out as garbage, so a
// frontend that leaves part of it alone is found out.
func (b *bench) read(off, length int64) []byte {
	b.Helper()
	p := bytes.Repeat([]byte{0xa5}, int(length))
	b.must("read", func() error { return b.target.ReadAt(p, off) })
	return p
}

// onDevice returns what the device holds.
func (b *bench) onDevice(off, length int64) []byte {
	b.Helper()
	p := make([]byte, length)
	if err := b.dev.ReadAt(context.Background(), p, off); err != nil {
		b.Fatalf("read the device itself: %v", err)
	}
	return p
}

// wantContent fails the case unless target and device both hold want at off.
func (b *bench) wantContent(want []byte, off int64) {
	b.Helper()
	length := int64(len(want))
	if i := firstDifference(b.read(off, length), want); i >= 0 {
		b.Fatalf("target differs at byte %d of [%d, +%d)", i, off, length)
	}
	if i := firstDifference(b.onDevice(off, length), want); i >= 0 {
		b.Fatalf("device differs at byte %d of [%d, +%d)", i, off, length)
	}
}

// wantDurable fails the case unless a power loss now would leave want at off.
func (b *bench) wantDurable(want []byte, off int64) {
	b.Helper()
	kept := make([]byte, len(want))
	b.dev.DurableAt(kept, off)
	if i := firstDifference(kept, want); i >= 0 {
		b.Fatalf("a power loss would change byte %d of [%d, +%d)", i, off, len(want))
	}
}
