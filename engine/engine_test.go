package engine_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const volumeBytes = 1 << 20

var volume = journal.VolumeID{7}

// openEngine makes a store on fs and an engine over it.
func openEngine(t *testing.T, fs vfs.FS) *engine.Engine {
	t.Helper()
	cfg := journal.Config{FS: fs, Dir: "/store", SegmentBytes: journal.MinSegmentBytes}
	if err := journal.Create(cfg, journal.Spec{Volume: volume, SizeBytes: volumeBytes}); err != nil {
		t.Fatal(err)
	}
	store, err := journal.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return engine.New(store)
}

func checkpoint(n journal.CheckpointNumber) journal.Checkpoint {
	return journal.Checkpoint{Number: n, Time: time.Unix(int64(n), 0), CheckpointInfo: journal.CheckpointInfo{Group: "g", Members: []journal.VolumeID{volume}}}
}

func TestRequestsOutsideTheDeviceChangeNothing(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	ctx := context.Background()
	tests := []struct {
		name   string
		off, n int64
		want   error
	}{
		{"beyond the end", volumeBytes, 512, engine.ErrOutOfRange},
		{"across the end", volumeBytes - 512, 1024, engine.ErrOutOfRange},
		{"negative", -512, 512, engine.ErrOutOfRange},
		{"unaligned offset", 100, 512, engine.ErrUnaligned},
		{"unaligned length", 512, 100, engine.ErrUnaligned},
		{"huge offset", 1<<62 + 512, 512, engine.ErrOutOfRange},
	}
	tip := e.Store().Tip()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := make([]byte, tt.n)
			for call, err := range map[string]error{
				"read": e.ReadAt(ctx, p, tt.off), "write": e.WriteAt(ctx, p, tt.off, false),
				"discard": e.Discard(ctx, tt.off, tt.n), "zero": e.WriteZeroes(ctx, tt.off, tt.n, true),
			} {
				if !errors.Is(err, tt.want) {
					t.Errorf("%s: %v, want %v", call, err, tt.want)
				}
			}
		})
	}
	if e.Store().Tip() != tip {
		t.Errorf("tip moved from %s to %s", tip, e.Store().Tip())
	}
}

func TestForcedUnitAccessIsDurableOnReturn(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	p := bytes.Repeat([]byte{1}, 512)
	if err := e.WriteAt(context.Background(), p, 0, false); err != nil {
		t.Fatal(err)
	}
	if e.Store().Durable() == e.Store().Tip() {
		t.Fatal("a plain write is durable at once: the test shows nothing")
	}
	if err := e.WriteAt(context.Background(), p, 512, true); err != nil {
		t.Fatal(err)
	}
	if e.Store().Durable() != e.Store().Tip() {
		t.Errorf("durable up to %s after a forced write, tip %s", e.Store().Durable(), e.Store().Tip())
	}
}

func TestReadOnlyRefusesChanges(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	if err := e.StopChanges(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for call, err := range map[string]error{
		"write": e.WriteAt(ctx, make([]byte, 512), 0, false), "discard": e.Discard(ctx, 0, 512), "zero": e.WriteZeroes(ctx, 0, 512, false),
	} {
		if !errors.Is(err, engine.ErrReadOnly) {
			t.Errorf("%s: %v, want ErrReadOnly", call, err)
		}
	}
	if err := e.ReadAt(ctx, make([]byte, 512), 0); err != nil {
		t.Errorf("read: %v", err)
	}
}

func TestFullDiskIsNoSpaceAndPasses(t *testing.T) {
	fs := vfs.NewMem()
	e := openEngine(t, fs)
	ctx := context.Background()
	p := bytes.Repeat([]byte{9}, 64<<10)
	if err := e.WriteAt(ctx, p, 0, true); err != nil {
		t.Fatal(err)
	}
	fs.SetCapacity(1) // what is there stays; nothing more fits
	var err error
	for range 64 {
		if err = e.WriteAt(ctx, p, 0, false); err != nil {
			break
		}
	}
	if !errors.Is(err, engine.ErrNoSpace) {
		t.Fatalf("write on a full disk: %v, want ErrNoSpace", err)
	}
	got := make([]byte, len(p))
	if err := e.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("read on a full disk: %v", err)
	}
	fs.SetCapacity(1 << 30)
	if err := e.WriteAt(ctx, p, 0, true); err != nil {
		t.Errorf("write after space came back: %v", err)
	}
}

// TestLackOfRoomThatPoisonsIsNoLackOfRoom: that the name of a new segment could not be synced is an
// I/O error for the write that met it, as for all that follow, and no history is given up for it.
func TestLackOfRoomThatPoisonsIsNoLackOfRoom(t *testing.T) {
	for _, relieved := range []bool{false, true} {
		fault := vfs.NewFault(vfs.NewMem())
		e := openEngine(t, fault)
		asked := false
		if relieved {
			e.SetRelief(func(context.Context) bool { asked = true; return true })
		}
		ctx := context.Background()
		p := bytes.Repeat([]byte{9}, 64<<10)
		if err := e.WriteAt(ctx, p, 0, true); err != nil {
			t.Fatal(err)
		}
		fault.FailAfter(1, vfs.ErrNoSpace, vfs.OpSyncDir)
		var err error
		for range 64 {
			if err = e.WriteAt(ctx, p, 0, false); err != nil {
				break
			}
		}
		for _, err := range []error{err, e.WriteAt(ctx, p, 0, false)} {
			if !errors.Is(err, engine.ErrPoisoned) || errors.Is(err, engine.ErrNoSpace) {
				t.Errorf("write: %v, want ErrPoisoned alone", err)
			}
		}
		if asked {
			t.Error("room was asked for")
		}
	}
}

// A volume on a full disk grows if there is history to give up, and else says why
// not and stays as it is.
func TestResizeOnAFullDisk(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		fs := vfs.NewMem()
		e := openEngine(t, fs)
		ctx := context.Background()
		p := bytes.Repeat([]byte{9}, 64<<10)
		fill := func() (err error) {
			for range 200 {
				if err = e.WriteAt(ctx, p, 0, true); err != nil {
					return err
				}
			}
			return nil
		}
		if err := e.WriteAt(ctx, p, 0, true); err != nil {
			t.Fatal(err)
		}
		if pinned {
			if err := e.Store().Pin("kept", e.Store().Durable()); err != nil {
				t.Fatal(err)
			}
		}
		_, free, err := fs.Space(".")
		if err != nil {
			t.Fatal(err)
		}
		fs.SetCapacity((1<<63 - 1 - free) + 6*journal.MinSegmentBytes)
		if err := fill(); errors.Is(err, engine.ErrNoSpace) != pinned {
			t.Fatalf("pinned %t: fill: %v", pinned, err)
		}
		if _, err := e.Store().Fork(e.Store().Tip(), "test"); err != nil { // so that the next record needs a segment
			t.Fatal(err)
		}
		before := e.SizeBytes()
		err = e.Resize(ctx, 2*before)
		if want := map[bool]int64{false: 2 * before, true: before}[pinned]; errors.Is(err, engine.ErrNoSpace) != pinned || e.SizeBytes() != want {
			t.Errorf("pinned %t: resize: %v, and %d bytes, want %d", pinned, err, e.SizeBytes(), want)
		}
		fs.SetCapacity(1 << 40)
		if err := e.Resize(ctx, 2*before); err != nil || e.SizeBytes() != 2*before {
			t.Errorf("pinned %t: resize with room: %v, and %d bytes", pinned, err, e.SizeBytes())
		}
		if err := e.WriteAt(ctx, p, 2*before-int64(len(p)), true); err != nil {
			t.Error(err)
		}
	}
}

func TestBarrierHoldsWritesUntilCommit(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	ctx := context.Background()
	if err := e.Prepare(ctx, 1, time.Minute); err != nil {
		t.Fatal(err)
	}
	var written atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.WriteAt(ctx, make([]byte, 512), 0, false); err != nil {
			t.Error(err)
		}
		written.Store(true)
	})
	if err := e.ReadAt(ctx, make([]byte, 512), 0); err != nil {
		t.Errorf("read under a barrier: %v", err)
	}
	if written.Load() {
		t.Error("a write passed the barrier")
	}
	pos, err := e.Commit(1, checkpoint(1))
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if pos.Seq != 1 || e.Store().Tip().Seq != 2 {
		t.Errorf("checkpoint at %s, tip %s: the write must come behind the checkpoint", pos, e.Store().Tip())
	}
}

func TestBarrierIsLiftedByAbortAndByItsDeadline(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	ctx := context.Background()
	lift := map[string]func(){
		"abort":    func() { e.Abort(1) },
		"deadline": func() {},
	}
	for name, fn := range lift {
		t.Run(name, func(t *testing.T) {
			hold := time.Minute
			if name == "deadline" {
				hold = time.Millisecond
			}
			if err := e.Prepare(ctx, 1, hold); err != nil {
				t.Fatal(err)
			}
			fn()
			if err := e.WriteAt(ctx, make([]byte, 512), 0, false); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Commit(1, checkpoint(1)); !errors.Is(err, engine.ErrBarrierLost) {
				t.Errorf("commit of a lifted barrier: %v, want ErrBarrierLost", err)
			}
		})
	}
	if n := len(e.Store().Checkpoints()); n != 0 {
		t.Errorf("%d checkpoints, want none", n)
	}
}

// A round that is not numbered, as in a message without one, holds no barrier: neither
// before the first one nor between two.
func TestNoBarrierIsHeldByARoundWithoutNumber(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	ctx := context.Background()
	for i := range 2 {
		e.Abort(0)
		if _, err := e.Commit(0, checkpoint(1)); !errors.Is(err, engine.ErrBarrierLost) {
			t.Errorf("commit of round 0: %v, want ErrBarrierLost", err)
		}
		round := uint64(i + 1)
		if err := e.Prepare(ctx, round, time.Minute); err != nil {
			t.Fatal(err)
		}
		e.Abort(0)
		if _, err := e.Commit(round, checkpoint(journal.CheckpointNumber(round))); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(e.Store().Checkpoints()); n != 2 {
		t.Errorf("%d checkpoints, want 2", n)
	}
}

func TestPrepareWaitsForChangesInFlight(t *testing.T) {
	blocked := &blockingFS{FS: vfs.NewMem(), entered: make(chan struct{}), release: make(chan struct{})}
	e := openEngine(t, blocked)
	ctx := context.Background()
	if err := e.WriteAt(ctx, make([]byte, 512), 0, false); err != nil {
		t.Fatal(err) // makes the segment
	}
	blocked.armed.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.WriteAt(ctx, make([]byte, 512), 0, false); err != nil {
			t.Error(err)
		}
	})
	<-blocked.entered
	short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	if err := e.Prepare(short, 1, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("prepare with a write in flight: %v, want a time-out", err)
	}
	close(blocked.release)
	wg.Wait()
	if err := e.Prepare(ctx, 2, time.Minute); err != nil {
		t.Fatalf("prepare after the write: %v", err)
	}
	if err := e.Prepare(ctx, 3, time.Minute); !errors.Is(err, engine.ErrBarrierHeld) {
		t.Errorf("second prepare: %v, want ErrBarrierHeld", err)
	}
	e.Abort(2)
}

// What is stopped appends nothing more, no checkpoint either: a site that is no primary any
// more may be fed by the next one, and its member would be cut where others are not.
func TestNoCheckpointIsAppendedOnceChangesAreStopped(t *testing.T) {
	blocked := &blockingFS{FS: vfs.NewMem(), entered: make(chan struct{}), release: make(chan struct{})}
	e := openEngine(t, blocked)
	ctx := context.Background()
	if err := e.Prepare(ctx, 1, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := e.StopChanges(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Commit(1, checkpoint(1)); !errors.Is(err, engine.ErrBarrierLost) {
		t.Errorf("commit behind the stop of a round that was prepared before it: %v, want ErrBarrierLost", err)
	}
	e.Abort(1)
	// A round of its own is taken all the same: by who stopped the changes, of what they left.
	if err := e.Prepare(ctx, 2, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Commit(2, checkpoint(2)); err != nil {
		t.Fatal(err)
	}
	if err := e.Prepare(ctx, 3, time.Minute); err != nil {
		t.Fatal(err)
	}
	blocked.armed.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := e.Commit(3, checkpoint(3)); err != nil {
			t.Error(err)
		}
	})
	<-blocked.entered
	short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	if err := e.StopChanges(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("changes are stopped while a checkpoint is being appended: %v, want a time-out", err)
	}
	close(blocked.release)
	wg.Wait()
	if err := e.StopChanges(ctx); err != nil {
		t.Error(err)
	}
	if n := len(e.Store().Checkpoints()); n > 2 {
		t.Errorf("%d checkpoints, want none of the round that was stopped", n)
	}
}

func TestDirtyUntilTheCheckpointThatCoversTheChange(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	ctx := context.Background()
	commit := func(round uint64) {
		t.Helper()
		if err := e.Prepare(ctx, round, time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Commit(round, checkpoint(journal.CheckpointNumber(round))); err != nil {
			t.Fatal(err)
		}
	}
	if !e.Dirty() {
		t.Error("a new engine is clean: what recovery found would have no checkpoint")
	}
	commit(1)
	if e.Dirty() {
		t.Error("dirty after a checkpoint")
	}
	if err := e.Discard(ctx, 0, 512); err != nil {
		t.Fatal(err)
	}
	if !e.Dirty() {
		t.Error("clean after a change")
	}
	commit(2)
	if e.Dirty() {
		t.Error("dirty after the second checkpoint")
	}
}

// Two writers overwrite one range; whatever order the device settled on, a
// replay of the journal must end with the same bytes.
func TestOverlappingWritesHaveOneOrder(t *testing.T) {
	e := openEngine(t, vfs.NewMem())
	ctx := context.Background()
	start := e.Store().Tip()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				p := bytes.Repeat([]byte{byte(w*100 + i)}, 4096)
				if err := e.WriteAt(ctx, p, int64(i%3)*512, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := e.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	replayed := make([]byte, volumeBytes)
	reader, err := e.Store().Records(start)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for reader.Ready() {
		r, err := reader.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		copy(replayed[r.Offset:], r.Payload)
	}
	live := make([]byte, volumeBytes)
	if err := e.ReadAt(ctx, live, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(live, replayed) {
		t.Error("the live view and a replay of the journal differ")
	}
}

// blockingFS blocks one vectored write when armed.
type blockingFS struct {
	vfs.FS
	armed            atomic.Bool
	entered, release chan struct{}
}

func (b *blockingFS) Create(name string) (vfs.File, error) {
	f, err := b.FS.Create(name)
	return &blockingFile{f, b}, err
}

type blockingFile struct {
	vfs.File
	fs *blockingFS
}

func (f *blockingFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	if f.fs.armed.CompareAndSwap(true, false) {
		close(f.fs.entered)
		<-f.fs.release
	}
	return f.File.WriteVecAt(bufs, off)
}
