package conformance

import "testing"

func testRoundTrip(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	cases := []struct {
		off, length int64
	}{
		{0, 512},
		{4096, 4096},
		{64 << 10, 64 << 10},
		{2 << 20, 1 << 20},
		{512, 512},                   // inside a page
		{4096 - 512, 1024},           // over a page's edge
		{8<<20 + 512, 4096},          // a page long, not on a page
		{9<<20 + 1536, 64<<10 + 512}, // long and odd at both ends
		{10<<20 - 512, 1<<20 + 1024},
	}
	for i, c := range cases {
		want := pattern(uint64(i), int(c.length))
		b.write(want, c.off)
		b.wantContent(want, c.off)
		again := pattern(uint64(i)+100, int(c.length))
		b.write(again, c.off)
		b.wantContent(again, c.off)
	}
}

func testEdges(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	if size, err := b.target.Size(); err != nil || size != deviceBytes {
		t.Fatalf("size = %d, %v; want %d", size, err, int64(deviceBytes))
	}
	for i, length := range []int64{512, 4096, 64 << 10} {
		first, last := pattern(uint64(i), int(length)), pattern(uint64(i)+9, int(length))
		b.write(first, 0)
		b.write(last, deviceBytes-length)
		b.wantContent(first, 0)
		b.wantContent(last, deviceBytes-length)
	}
}

// testOddSize: a device whose size is no multiple of a page ends where it says.
func testOddSize(t *testing.T, open OpenFunc) {
	const size = 1<<20 + 512
	b := openBench(t, open, size, nil)
	if got, err := b.target.Size(); err != nil || got != size {
		t.Fatalf("size = %d, %v; want %d", got, err, size)
	}
	want := pattern(1, 512)
	b.write(want, size-512)
	b.wantContent(want, size-512)
}

func testBeyondEnd(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	tail := pattern(1, 4096)
	b.write(tail, deviceBytes-4096)
	for _, off := range []int64{deviceBytes - 4096, deviceBytes, deviceBytes + 1<<20, 1 << 40} {
		calls := map[string]func() error{
			"read":         func() error { return b.target.ReadAt(make([]byte, 8192), off) },
			"write":        func() error { return b.target.WriteAt(pattern(2, 8192), off, false) },
			"discard":      func() error { return b.target.Discard(off, 8192) },
			"write zeroes": func() error { return b.target.WriteZeroes(off, 8192) },
		}
		for what, fn := range calls {
			if err := b.within(what, fn); err == nil {
				t.Errorf("%s of [%d, +8192) on a device of %d bytes succeeded", what, off, int64(deviceBytes))
			}
		}
	}
	// A kernel may write the part of a range that does fit; what must not
	// happen is that a later, good request suffers.
	b.write(tail, deviceBytes-4096)
	b.wantContent(tail, deviceBytes-4096)
}

func testNeverWritten(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	island := pattern(1, 512)
	b.write(island, 1<<20)
	want := make([]byte, 128<<10)
	copy(want[64<<10:], island)
	b.wantContent(want, 1<<20-64<<10)
	b.wantContent(make([]byte, 1<<20), 8<<20)
}

func testDiscard(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	want := pattern(1, 1<<20)
	b.write(want, 4<<20)
	step := b.caps.DiscardBytes
	for _, c := range []struct{ off, length int64 }{{step, step}, {128 << 10, 64 << 10}, {512 << 10, 512 << 10}} {
		b.must("discard", func() error { return b.target.Discard(4<<20+c.off, c.length) })
		clear(want[c.off : c.off+c.length])
		b.wantContent(want, 4<<20)
	}
	if n := b.dev.Counts().Discards; n < 3 {
		t.Errorf("the device saw %d discards, want 3: space is not freed", n)
	}
	again := pattern(2, int(step))
	b.write(again, 4<<20+step)
	b.wantContent(again, 4<<20+step)
}

func testWriteZeroes(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	want := pattern(1, 1<<20)
	b.write(want, 4<<20)
	for _, c := range []struct{ off, length int64 }{{512, 512}, {4096, 4096}, {64<<10 - 512, 1024}, {512 << 10, 512 << 10}} {
		b.must("write zeroes", func() error { return b.target.WriteZeroes(4<<20+c.off, c.length) })
		clear(want[c.off : c.off+c.length])
		b.wantContent(want, 4<<20)
	}
}

// testWholeDevice: one request over everything, as mkfs and blkdiscard send it.
func testWholeDevice(t *testing.T, open OpenFunc) {
	for _, name := range []string{"discard", "write zeroes"} {
		t.Run(name, func(t *testing.T) {
			b := openBench(t, open, deviceBytes, nil)
			for off := int64(0); off < deviceBytes; off += 1 << 20 {
				b.write(pattern(uint64(off), 4096), off)
			}
			if name == "discard" {
				b.must(name, func() error { return b.target.Discard(0, deviceBytes) })
			} else {
				b.must(name, func() error { return b.target.WriteZeroes(0, deviceBytes) })
			}
			for off := int64(0); off < deviceBytes; off += 1 << 20 {
				b.wantContent(make([]byte, 1<<20), off)
			}
		})
	}
}

func testGrowth(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	grower, ok := b.target.(Grower)
	if !ok {
		t.Skip("growth not tested: this frontend's client cannot learn of it")
	}
	kept := pattern(1, 4096)
	b.write(kept, deviceBytes-4096)
	for step := range int64(2) {
		size := deviceBytes + (step+1)*(4<<20)
		b.dev.SetSize(size)
		b.must("grow", grower.Grow)
		if got, err := b.target.Size(); err != nil || got != size {
			t.Fatalf("size after growth = %d, %v; want %d", got, err, size)
		}
		b.wantContent(make([]byte, 4096), size-4096)
		last := pattern(uint64(step)+2, 4096)
		b.write(last, size-4096)
		b.wantContent(last, size-4096)
	}
	b.wantContent(kept, deviceBytes-4096)
}
