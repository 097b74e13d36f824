package conformance

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
)

// direct is the frontend that does nothing: the suite over the reference
// device itself, which shows that the cases can be passed.
type direct struct {
	dev engine.Device
}

func openDirect(_ *testing.T, dev engine.Device) Target { return direct{dev} }

func (d direct) Capabilities() Capabilities {
	return Capabilities{
		FUA: true, WritesDuringFlush: true, ExactErrors: true,
		AtomicBytes: 1 << 20, DiscardBytes: 512, Parallel: 256,
	}
}

func (d direct) ReadAt(p []byte, off int64) error {
	return asErrno(d.dev.ReadAt(context.Background(), p, off))
}

func (d direct) WriteAt(p []byte, off int64, fua bool) error {
	return asErrno(d.dev.WriteAt(context.Background(), p, off, fua))
}

func (d direct) Flush() error { return asErrno(d.dev.Flush(context.Background())) }

func (d direct) Discard(off, length int64) error {
	return asErrno(d.dev.Discard(context.Background(), off, length))
}

func (d direct) WriteZeroes(off, length int64) error {
	return asErrno(d.dev.WriteZeroes(context.Background(), off, length, false))
}

func (d direct) Size() (int64, error) { return d.dev.SizeBytes(), nil }
func (d direct) Grow() error          { return nil }
func (d direct) Close() error         { return nil }

func asErrno(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, engine.ErrNoSpace):
		return syscall.ENOSPC
	case errors.Is(err, engine.ErrReadOnly):
		return syscall.EROFS
	default:
		return syscall.EIO
	}
}

func TestSuiteOverReferenceDevice(t *testing.T) {
	Run(t, openDirect)
}

func TestMemoryDurability(t *testing.T) {
	ctx := t.Context()
	m := NewMemory(1 << 20)
	mustDo := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one, two := pattern(1, 4096), pattern(2, 4096)
	kept := make([]byte, 4096)

	mustDo(m.WriteAt(ctx, one, 0, false))
	if m.DurableAt(kept, 0); !bytes.Equal(kept, make([]byte, 4096)) || m.Durable(0, 4096) {
		t.Fatal("a plain write was durable at once")
	}
	mustDo(m.Flush(ctx))
	if m.DurableAt(kept, 0); !bytes.Equal(kept, one) || !m.Durable(0, 4096) {
		t.Fatal("a flushed write was not durable")
	}
	mustDo(m.WriteAt(ctx, two, 4096, true))
	mustDo(m.Discard(ctx, 0, 4096))
	if m.DurableAt(kept, 4096); !bytes.Equal(kept, two) {
		t.Fatal("a FUA write was not durable")
	}
	if m.DurableAt(kept, 0); !bytes.Equal(kept, one) {
		t.Fatal("a discard was durable at once")
	}
	mustDo(m.Flush(ctx))
	if m.DurableAt(kept, 0); !bytes.Equal(kept, make([]byte, 4096)) {
		t.Fatal("a flushed discard was not durable")
	}
}

func TestMemoryBlockStatus(t *testing.T) {
	ctx := t.Context()
	m := NewMemory(1 << 20)
	for _, off := range []int64{0, 32<<10 - 512, 32 << 10, 512 << 10} {
		if err := m.WriteAt(ctx, pattern(1, 512), off, false); err != nil {
			t.Fatal(err)
		}
	}
	want := []engine.BlockRange{
		{Offset: 0, Length: 512},
		{Offset: 512, Length: 32<<10 - 1024, Zero: true},
		{Offset: 32<<10 - 512, Length: 1024}, // joined over the chunk's edge
		{Offset: 32<<10 + 512, Length: 480<<10 - 512, Zero: true},
		{Offset: 512 << 10, Length: 512},
		{Offset: 512<<10 + 512, Length: 512<<10 - 512, Zero: true},
	}
	for limit := 1; limit <= 8; limit++ {
		got, err := m.BlockStatus(ctx, 0, 1<<20, limit)
		if err != nil {
			t.Fatal(err)
		}
		if n := min(limit, len(want)); len(got) != n {
			t.Fatalf("limit %d: %d ranges, want %d", limit, len(got), n)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("limit %d: range %d = %+v, want %+v", limit, i, got[i], want[i])
			}
		}
	}
}

func TestMemoryRefuses(t *testing.T) {
	ctx := t.Context()
	m := NewMemory(1 << 20)
	cases := []struct {
		name string
		err  error
		want error
	}{
		{"beyond the end", m.WriteAt(ctx, make([]byte, 1024), 1<<20-512, false), engine.ErrOutOfRange},
		{"negative", m.ReadAt(ctx, make([]byte, 512), -512), engine.ErrOutOfRange},
		{"unaligned offset", m.ReadAt(ctx, make([]byte, 512), 1), engine.ErrUnaligned},
		{"unaligned length", m.Discard(ctx, 0, 100), engine.ErrUnaligned},
		{"overflow", m.WriteZeroes(ctx, 1<<63-512, 512, false), engine.ErrOutOfRange},
	}
	for _, c := range cases {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
}

func TestGateEndsWithContext(t *testing.T) {
	m := NewMemory(1 << 20)
	gate := m.Block(Match{Op: OpFlush}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Flush(ctx) }()
	<-gate.Entered()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("held flush returned %v, want context.Canceled", err)
	}
}
