package journal

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// rounds is how often the random tests repeat with other seeds:
// LOCKSTEP_TEST_ROUNDS makes them longer, LOCKSTEP_TEST_SEED repeats one.
func rounds(t *testing.T) (seeds []uint64) {
	t.Helper()
	number := func(name string, otherwise uint64) uint64 {
		text := os.Getenv(name)
		if text == "" {
			return otherwise
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return n
	}
	first := number("LOCKSTEP_TEST_SEED", 1)
	for i := range number("LOCKSTEP_TEST_ROUNDS", 1) {
		seeds = append(seeds, first+i)
	}
	return seeds
}

const crashCalls = 70 // of one workload

// keptSeeds are those that make what a workload is there for several times, or that found
// something: 51 a pin whose deletion was cut off behind its commit.
var keptSeeds = map[string][]uint64{"pins outlive the window": {3, 11, 51}, "keep a point": {8, 26}}

// TestCrashAtEveryOperation cuts the power, and in another branch kills the
// process, at every operation of every workload, and compares what recovery
// makes of it with the model.
func TestCrashAtEveryOperation(t *testing.T) {
	for _, load := range workloads {
		t.Run(load.name, func(t *testing.T) {
			fulfilled := 0 // seeds
			for _, seed := range append(rounds(t), keptSeeds[load.name]...) {
				dry := newWorld(t, seed, load.change)
				if err := dry.run(load.steps, crashCalls); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err := errors.Join(dry.closeViews(), dry.s.Close()); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if dry.fulfills(load.name) {
					fulfilled++
				}
				for k := int64(1); k <= dry.fault.Count(); k++ {
					w := newWorld(t, seed, load.change)
					w.crashAt(load.steps, seed, k)
				}
			}
			if fulfilled == 0 {
				t.Fatalf("no seed of %v made what the workload is there for", rounds(t))
			}
		})
	}
}

// fulfills reports whether a workload that was not crashed made what it is there
// for, which not every seed does: three index runs, a whole pass of the scrub, a
// segment that thinning has rewritten, a kept point that gave way.
func (w *world) fulfills(load string) bool {
	switch {
	case strings.HasSuffix(load, "index runs"):
		return len(w.runs(w.t)) >= 3
	case load == "scrub":
		return !w.s.ScrubStats().LastFull.IsZero()
	case load == "keep a point":
		return w.s.Stats().Space.PointsGivenUp > 0
	case strings.HasSuffix(load, "thin") || load == "pins outlive the window":
		return w.hasRewritten(w.t)
	}
	return true
}

// runs are the names of the index runs on the disk.
func (w *world) runs(t *testing.T) (names []string) {
	t.Helper()
	all, err := w.mem.ReadDir(w.cfg.file(journalDir))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(name string) bool { return !strings.HasSuffix(name, runSuffix) })
}

// hasRewritten reports whether thinning has left a segment on the disk.
func (w *world) hasRewritten(t *testing.T) bool {
	t.Helper()
	all, err := w.mem.ReadDir(w.cfg.file(journalDir))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, isRewritten)
}

// crashAt runs the workload into a crash and checks both outcomes.
func (w *world) crashAt(steps []step, seed uint64, k int64) {
	w.t.Helper()
	chance := rand.New(rand.NewPCG(seed, uint64(k)))
	w.fault.CrashTornAt(k, chance)
	err := w.run(steps, crashCalls)
	if err == nil {
		err = errors.Join(w.closeViews(), w.s.Close())
	}
	if !errors.Is(err, vfs.ErrCrashed) {
		w.t.Fatalf("seed %d, operation %d: %v, want the crash", seed, k, err)
	}
	defer func() {
		if w.t.Failed() {
			w.t.Logf("seed %d, crash at operation %d; the last ones were:\n%s", seed, k, w.fault.Trace())
		}
	}()
	w.views = nil
	kill, fault := w.mem.KillClone(), w.fault
	w.survive(w.m.clone(), kill, chance, false, steps)
	w.survive(w.m.clone(), w.mem.Crash(chance), chance, true, steps)
	w.fault = fault
}

// survive recovers from what a crash left, checks it, and goes on with it
// until another crash.
func (w *world) survive(m *model, mem *vfs.Mem, chance *rand.Rand, lossy bool, steps []step) {
	w.t.Helper()
	w.m = m
	w.mount(mem)
	w.checkUndamaged()
	if err := w.open(); err != nil {
		w.t.Fatalf("recover: %v", err)
	}
	w.m.check(w.t, w.s, lossy)
	w.m.resume(w.s)
	// What was recovered is durable: it survives the loss of all else.
	tip := w.s.Tip()
	w.mount(w.mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true}))
	if err := w.open(); err != nil {
		w.t.Fatalf("recover again: %v", err)
	}
	if w.s.Tip() != tip {
		w.t.Fatalf("recovered %s, then %s", tip, w.s.Tip())
	}
	w.m.check(w.t, w.s, true)
	if err := w.run(steps, 6); err != nil {
		w.t.Fatalf("go on after recovery: %v", err)
	}
	w.views = nil
	w.mount(w.mem.Crash(chance))
	w.checkUndamaged()
	if err := w.open(); err != nil {
		w.t.Fatalf("recover from a second crash: %v", err)
	}
	w.m.check(w.t, w.s, true)
	if err := w.s.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// checkUndamaged makes sure that what a crash left does not look damaged.
func (w *world) checkUndamaged() {
	w.t.Helper()
	report, err := Verify(context.Background(), Config{FS: w.mem, Dir: worldDir, JournalDir: w.cfg.JournalDir})
	if err != nil || !report.OK() {
		w.t.Fatalf("after the crash: damage %+v, %v", report.Damage, err)
	}
}

// TestCrashDuringRecovery crashes recovery itself at every operation, over
// what crashes of a workload have left.
func TestCrashDuringRecovery(t *testing.T) {
	for _, load := range workloads {
		if load.name == "everything" || load.name == "thin" {
			t.Run(load.name, func(t *testing.T) { crashRecovery(t, load.change, load.steps) })
		}
	}
}

func crashRecovery(t *testing.T, change func(*Config), steps []step) {
	for _, seed := range rounds(t) {
		for k := int64(5); ; k += 7 {
			w := newWorld(t, seed, change)
			chance := rand.New(rand.NewPCG(seed, uint64(k)))
			w.fault.CrashTornAt(k, chance)
			if err := w.run(steps, crashCalls); err == nil {
				break
			}
			crashed := w.mem.Crash(chance)
			for j, done := int64(1), false; !done; j++ {
				w.views = nil
				w.mount(crashed.KillClone())
				w.fault.CrashTornAt(j, chance)
				done = w.open() == nil
				model := w.m.clone()
				w.mount(w.mem.Crash(chance))
				if err := w.open(); err != nil {
					t.Fatalf("seed %d, crash %d, then at operation %d of recovery: %v", seed, k, j, err)
				}
				model.check(t, w.s, true)
				mustClose(t, w.s)
			}
		}
	}
}
