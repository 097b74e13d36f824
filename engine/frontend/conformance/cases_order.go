package conformance

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
)

// testOverlappingWrites: writes of one range in flight together leave one of
// them, whole, and client and device agree which.
func testOverlappingWrites(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	const writers, rounds = 8, 20
	for _, length := range []int{4096, b.caps.AtomicBytes} {
		off := int64(4 << 20)
		off -= off % int64(length)
		for round := range rounds {
			patterns := make([][]byte, writers)
			calls := make([]*call, writers)
			for i := range patterns {
				patterns[i] = pattern(uint64(round*writers+i), length)
				calls[i] = b.start("overlapping write", func() error { return b.target.WriteAt(patterns[i], off, false) })
			}
			for _, c := range calls {
				if err := b.wait(c); err != nil {
					t.Fatalf("overlapping write: %v", err)
				}
			}
			got := b.read(off, int64(length))
			whole := false
			for _, p := range patterns {
				whole = whole || bytes.Equal(got, p)
			}
			if !whole {
				t.Fatalf("round %d: %d bytes are a mixture of the writes", round, length)
			}
			b.wantContent(got, off)
		}
	}
}

func testFlushMakesDurable(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	want := pattern(1, 64<<10)
	b.write(want, 8<<20)
	if b.dev.Durable(8<<20, 64<<10) {
		t.Fatal("a write without FUA was durable before the flush: this case proves nothing")
	}
	before := b.dev.Counts().Flushes
	b.must("flush", b.target.Flush)
	if b.dev.Counts().Flushes == before {
		t.Fatal("the flush did not reach the device")
	}
	b.wantDurable(want, 8<<20)

	step := b.caps.DiscardBytes
	b.must("discard", func() error { return b.target.Discard(8<<20, step) })
	b.must("write zeroes", func() error { return b.target.WriteZeroes(8<<20+32<<10, 4096) })
	clear(want[:step])
	clear(want[32<<10 : 32<<10+4096])
	b.must("flush", b.target.Flush)
	b.wantDurable(want, 8<<20)
}

func testFlushWaitsForDevice(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	want := pattern(1, 4096)
	b.write(want, 8<<20)
	gate := b.block(Match{Op: OpFlush}, 1)
	flush := b.start("flush", b.target.Flush)
	b.arrived(gate)
	b.pending(flush)
	gate.Release()
	if err := b.wait(flush); err != nil {
		t.Fatalf("flush: %v", err)
	}
	b.wantDurable(want, 8<<20)
}

func testFUA(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	if !b.caps.FUA {
		t.Skip("FUA not tested: this frontend has none, its clients flush")
	}
	for i, length := range []int{512, 4096, 64 << 10, 1 << 20} {
		want := pattern(uint64(i), length)
		b.must("write with FUA", func() error { return b.target.WriteAt(want, 8<<20, true) })
		b.wantDurable(want, 8<<20)
	}
}

func testFlushDelaysNoRead(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	want := pattern(1, 4096)
	b.write(want, 8<<20)
	gate := b.block(Match{Op: OpFlush}, 1)
	flush := b.start("flush", b.target.Flush)
	b.arrived(gate)
	b.wantContent(want, 8<<20)
	b.pending(flush)
	gate.Release()
	if err := b.wait(flush); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

func testFlushDelaysNoWrite(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	if !b.caps.WritesDuringFlush {
		t.Skip("writes during a flush not tested: this frontend's kernel side holds them back")
	}
	gate := b.block(Match{Op: OpFlush}, 1)
	flush := b.start("flush", b.target.Flush)
	b.arrived(gate)
	for i := range 8 {
		want := pattern(uint64(i), 4096)
		b.write(want, 8<<20+int64(i)*4096)
		b.wantContent(want, 8<<20+int64(i)*4096)
	}
	b.pending(flush)
	gate.Release()
	if err := b.wait(flush); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

func testReadDelaysNobody(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	want := pattern(1, 4096)
	b.write(want, 8<<20)
	gate := b.block(Match{Op: OpRead, Offset: 8 << 20, Length: 4096}, 1)
	held := make([]byte, 4096)
	slow := b.start("held read", func() error { return b.target.ReadAt(held, 8<<20) })
	b.arrived(gate)
	b.exercise(4 << 20)
	b.pending(slow)
	gate.Release()
	if err := b.wait(slow); err != nil {
		t.Fatalf("held read: %v", err)
	}
	if !bytes.Equal(held, want) {
		t.Fatal("the held read returned the wrong bytes")
	}
}

func testWriteDelaysNobody(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	want := pattern(1, 4096)
	gate := b.block(Match{Op: OpWrite, Offset: 8 << 20, Length: 4096}, 1)
	slow := b.start("held write", func() error { return b.target.WriteAt(want, 8<<20, false) })
	b.arrived(gate)
	b.exercise(4 << 20)
	b.pending(slow)
	gate.Release()
	if err := b.wait(slow); err != nil {
		t.Fatalf("held write: %v", err)
	}
	b.wantContent(want, 8<<20)
}

// exercise writes and reads at off, while some other call is held up.
func (b *bench) exercise(off int64) {
	b.Helper()
	for i := range 8 {
		want := pattern(uint64(i)+50, 4096)
		b.write(want, off+int64(i)*4096)
		b.wantContent(want, off+int64(i)*4096)
	}
}

// testManyInFlight: as many requests as the frontend claims are at the device
// at once, and many more than that are served in the end.
func testManyInFlight(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	for i := range 256 {
		b.write(pattern(uint64(i), 4096), 8<<20+int64(i)*4096)
	}
	gate := b.block(Match{Op: OpRead, Offset: 8 << 20, Length: 1 << 20}, b.caps.Parallel)
	var wg sync.WaitGroup
	errs := make(chan error, 256)
	for i := range 256 {
		wg.Go(func() {
			p := make([]byte, 4096)
			if err := b.target.ReadAt(p, 8<<20+int64(i)*4096); err != nil {
				errs <- fmt.Errorf("read %d: %w", i, err)
			} else if !bytes.Equal(p, pattern(uint64(i), 4096)) {
				errs <- fmt.Errorf("read %d returned another request's bytes", i)
			}
		})
	}
	for range b.caps.Parallel {
		b.arrived(gate)
	}
	gate.Release()
	b.must("reads in flight", func() error { wg.Wait(); return nil })
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}
