package journal

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

var errDisk = errors.New("disk says no")

// faultSteps need every kind of operation.
var faultSteps = workloads[len(workloads)-1].steps

// TestFailedSyncPoisons makes the k-th sync, of a file or of a directory, or
// the k-th write or commit of the catalog fail, for every k. The store must
// say so, acknowledge nothing more, and lose nothing that it acknowledged
// before. What a failed sync dropped is there after the crash or not.
func TestFailedSyncPoisons(t *testing.T) {
	const calls = 60
	for _, op := range []vfs.Op{vfs.OpSync, vfs.OpSyncDir, vfs.OpCommit, vfs.OpWriteVec} {
		t.Run(op.String(), func(t *testing.T) {
			for _, seed := range rounds(t) {
				for k := int64(1); failAt(t, seed, k, calls, op); k++ {
				}
			}
		})
	}
}

// failAt is false when the workload has fewer than k operations of the kind.
func failAt(t *testing.T, seed uint64, k int64, calls int, op vfs.Op) bool {
	t.Helper()
	w := newWorld(t, seed, shortJournal)
	w.mem.SetChance(seed + uint64(k))
	before := w.fault.Count(op) // of opening the store
	w.fault.FailAfter(k, errDisk, op)
	err := w.run(faultSteps, calls)
	if err == nil {
		if w.fault.Count(op) >= before+k {
			t.Fatalf("seed %d: failed %s %d was not reported", seed, op, k)
		}
		return false
	}
	if !errors.Is(err, errDisk) {
		t.Fatalf("seed %d, %s %d: %v, want the disk's error", seed, op, k, err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, failed %s %d", seed, op, k)
		}
	}()
	chance := rand.New(rand.NewPCG(seed, uint64(k)))
	if w.s != nil { // else it was Open that failed
		if !w.s.closed {
			w.checkPoisoned()
		}
		// Close releases the files and changes nothing.
		if err := w.s.Close(); err != nil {
			t.Fatalf("seed %d, %s %d: close: %v", seed, op, k, err)
		}
	}
	w.views = nil
	model, disk := w.m, w.mem
	// The machine goes on: the pages that were not written are in the cache,
	// as clean ones, or the kernel has already read them again.
	w.survive(model.clone(), disk.KillClone(), chance, true, faultSteps)
	evicted := disk.KillClone()
	evicted.Evict()
	w.survive(model.clone(), evicted, chance, true, faultSteps)
	w.survive(model.clone(), disk.Crash(chance), chance, true, faultSteps)
	w.survive(model, disk.CrashWith(nil, vfs.CrashOptions{LoseAll: true}), chance, true, faultSteps)
	return true
}

func (w *world) checkPoisoned() {
	w.t.Helper()
	calls := map[string]error{
		"flush":    w.s.Flush(context.Background()),
		"maintain": w.s.Maintain(context.Background()),
		"read":     w.s.ReadAt(make([]byte, SectorBytes), 0),
		"unpin":    w.s.Unpin("x"),
	}
	_, calls["write"] = w.s.Write(make([]byte, SectorBytes), 0)
	_, calls["fork"] = w.s.Fork(w.s.Tip(), "rewind")
	_, calls["view"] = w.s.View(w.s.Tip())
	_, calls["records"] = w.s.Records(w.s.Horizon())
	_, calls["wait"] = w.s.WaitDurable(context.Background(), w.s.Durable())
	for name, err := range calls {
		if !errors.Is(err, ErrPoisoned) || !errors.Is(err, errDisk) {
			w.t.Fatalf("%s on a poisoned store: %v", name, err)
		}
	}
}

// TestFullDiskLosesNothing fills the disk at every amount of space that makes
// a difference, and then gives the space back.
func TestFullDiskLosesNothing(t *testing.T) {
	for _, seed := range rounds(t) {
		dry := newWorld(t, seed, shortJournal)
		_, _, err := dry.mem.Space(".")
		if err != nil {
			t.Fatal(err)
		}
		for capacity := int64(0); capacity < 6*MinSegmentBytes; capacity += 24 << 10 {
			w := newWorld(t, seed, shortJournal)
			w.mem.SetCapacity(capacity)
			w.runFull(seed, capacity)
		}
	}
}

func (w *world) runFull(seed uint64, capacity int64) {
	w.t.Helper()
	full := 0
	for range 90 {
		err := w.run(faultSteps, 1)
		switch {
		case err == nil:
		case errors.Is(err, ErrFull) && w.s.Err() == nil:
			full++
			w.m.attempt = nil
			if err := w.s.Flush(context.Background()); err != nil {
				w.t.Fatalf("seed %d, %d bytes: flush on a full disk: %v", seed, capacity, err)
			}
			w.m.acknowledge()
		default:
			w.t.Fatalf("seed %d, %d bytes: %v", seed, capacity, err)
		}
	}
	if full == 0 && capacity < MinSegmentBytes {
		w.t.Fatalf("seed %d: no ErrFull with %d bytes", seed, capacity)
	}
	w.mem.SetCapacity(1 << 40)
	if err := errors.Join(w.run(faultSteps, 20), w.flush(), w.closeViews()); err != nil {
		w.t.Fatalf("seed %d, %d bytes: after space came back: %v", seed, capacity, err)
	}
	w.m.check(w.t, w.s, true)
	w.mount(w.mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true}))
	if err := w.open(); err != nil {
		w.t.Fatalf("seed %d, %d bytes: %v", seed, capacity, err)
	}
	w.m.check(w.t, w.s, true)
	mustClose(w.t, w.s)
}

// TestConcurrentSyncsOfOneFile: the kernel reports a failed write-back to one
// of two syncs that wait for it. Neither may be acknowledged.
func TestConcurrentSyncsOfOneFile(t *testing.T) {
	w := newWorld(t, 1, nil)
	if err := w.write(); err != nil {
		t.Fatal(err)
	}
	g := w.s.active
	gate := &syncGate{File: g.file, entered: make(chan struct{}, 2), results: make(chan error, 2)}
	g.file = gate
	done := make(chan error, 2)
	go func() { done <- w.s.syncSegment(g) }()
	<-gate.entered
	go func() { done <- w.s.syncSegment(g) }()
	gate.results <- errDisk
	gate.results <- nil // taken only if the second sync reaches the disk
	for range 2 {
		select {
		case err := <-done:
			if !errors.Is(err, errDisk) {
				t.Fatalf("one of two concurrent syncs was acknowledged: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a sync hangs")
		}
	}
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
}

// syncGate is a file whose syncs wait for their result.
type syncGate struct {
	vfs.File
	entered chan struct{}
	results chan error
}

func (g *syncGate) Sync() error {
	g.entered <- struct{}{}
	return <-g.results
}
