package conformance

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
)

func testNoSpace(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	old := pattern(1, 4096)
	b.write(old, 8<<20)
	here := Match{Op: OpWrite, Offset: 8 << 20, Length: 4096}
	b.dev.Fail(here, 1, fmt.Errorf("append record: %w", engine.ErrNoSpace))
	err := b.within("write", func() error { return b.target.WriteAt(pattern(2, 4096), 8<<20, false) })
	b.wantErrno("write to a full volume", err, syscall.ENOSPC)
	b.wantContent(old, 8<<20)

	// The device is intact, so the same write may be tried again.
	again := pattern(2, 4096)
	b.write(again, 8<<20)
	b.wantContent(again, 8<<20)
}

func testReadOnly(t *testing.T, open OpenFunc) {
	want := pattern(1, 64<<10)
	b := openBench(t, open, deviceBytes, func(m *Memory) {
		if err := m.WriteAt(t.Context(), want, 8<<20, true); err != nil {
			t.Fatalf("prepare device: %v", err)
		}
		m.SetReadOnly(true)
	})
	b.wantContent(want, 8<<20)
	calls := map[string]func() error{
		"write":        func() error { return b.target.WriteAt(pattern(2, 4096), 8<<20, false) },
		"discard":      func() error { return b.target.Discard(8<<20, 64<<10) },
		"write zeroes": func() error { return b.target.WriteZeroes(8<<20, 4096) },
	}
	for what, fn := range calls {
		b.wantErrno(what+" on a read-only device", b.within(what, fn), syscall.EROFS, syscall.EPERM)
	}
	b.wantContent(want, 8<<20)
}

func testPoisoned(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	b.write(pattern(1, 4096), 8<<20)
	cause := fmt.Errorf("sync journal: %w", engine.ErrPoisoned)
	b.dev.Fail(Match{Op: OpFlush}, -1, cause)
	b.dev.Fail(Match{Op: OpWrite}, -1, cause)
	b.dev.Fail(Match{Op: OpRead, Offset: 8 << 20, Length: 4096}, -1, cause)
	// Twice: an error that is reported once and then forgotten is how
	// acknowledged writes get lost.
	for range 2 {
		b.wantErrno("flush", b.within("flush", b.target.Flush), syscall.EIO)
		err := b.within("write", func() error { return b.target.WriteAt(pattern(2, 4096), 4<<20, false) })
		b.wantErrno("write", err, syscall.EIO)
		err = b.within("read", func() error { return b.target.ReadAt(make([]byte, 4096), 8<<20) })
		b.wantErrno("read", err, syscall.EIO)
	}
}

// testFailedRequests: of many requests in flight some fail, and each client
// call gets its own answer.
func testFailedRequests(t *testing.T, open OpenFunc) {
	b := openBench(t, open, deviceBytes, nil)
	const requests = 64
	base := int64(8 << 20)
	for i := int64(0); i < requests; i += 4 {
		match := Match{Op: OpWrite, Offset: base + i*4096, Length: 4096}
		b.dev.Fail(match, -1, fmt.Errorf("append record: %w", engine.ErrPoisoned))
	}
	calls := make([]*call, requests)
	for i := range calls {
		calls[i] = b.start("write", func() error {
			return b.target.WriteAt(pattern(uint64(i), 4096), base+int64(i)*4096, false)
		})
	}
	for i, c := range calls {
		err := b.wait(c)
		if i%4 == 0 {
			b.wantErrno(fmt.Sprintf("write %d", i), err, syscall.EIO)
		} else if err != nil {
			t.Errorf("write %d failed with another request's error: %v", i, err)
		}
	}
	for i := range requests {
		want := make([]byte, 4096)
		if i%4 != 0 {
			want = pattern(uint64(i), 4096)
		}
		b.wantContent(want, base+int64(i)*4096)
	}
}
