package engine_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A tool's write that a barrier holds up was let through before the device was attached.
// Whoever attaches it waits for that one; those that come later are refused.
func TestWhoBlocksADeviceWaitsForTheChangesBefore(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	ctx := context.Background()
	var attached atomic.Bool
	admitted := make(chan struct{}, 1)
	g := &engine.Guarded{Device: told{e, admitted}, Blocked: attached.Load}
	if err := g.Settle(ctx); err != nil {
		t.Fatalf("with nothing in flight: %v", err)
	}
	if err := e.Prepare(ctx, 1, time.Hour); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.WriteAt(ctx, make([]byte, 512), 0, false); err != nil {
			t.Errorf("the write that was let through: %v", err)
		}
	})
	<-admitted
	attached.Store(true)
	short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	if err := g.Settle(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("settled with a write in flight: %v, want a time-out", err)
	}
	for name, change := range map[string]func() error{
		"write":   func() error { return g.WriteAt(ctx, make([]byte, 512), 0, false) },
		"discard": func() error { return g.Discard(ctx, 0, 512) },
		"zeroes":  func() error { return g.WriteZeroes(ctx, 0, 512, false) },
	} {
		if err := change(); !errors.Is(err, engine.ErrReadOnly) {
			t.Errorf("%s while the device is attached: %v, want ErrReadOnly", name, err)
		}
	}
	e.Abort(1)
	if err := g.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	tip := e.Store().Tip()
	wg.Wait()
	if e.Store().Tip() != tip || tip.Seq != 1 {
		t.Errorf("tip %s once settled, %s later: the write that was let through is to be in the journal, and no other", tip, e.Store().Tip())
	}
}

// told says when a write has come to the device.
type told struct {
	engine.Device
	came chan<- struct{}
}

func (d told) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	d.came <- struct{}{}
	return d.Device.WriteAt(ctx, p, off, fua)
}
