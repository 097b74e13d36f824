package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestForksBesideProduction makes random calls on a store and on forks of
// several of its moments, and compares each with its own model.
func TestForksBesideProduction(t *testing.T) {
	for name, change := range map[string]func(*Config){"short journal": shortJournal, "small index": func(c *Config) { smallIndex(c); shortJournal(c) }} {
		t.Run(name, func(t *testing.T) {
			made, destaged, reclaimed, committed := 0, false, int64(0), 0
			for _, seed := range rounds(t) {
				w := newForkWorld(t, seed, change)
				if err := w.runForks(forkSteps, 1500); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				made, destaged, reclaimed, committed = made+w.made, destaged || w.s.Horizon().Seq > 0, reclaimed+w.reclaimed, committed+w.committed
				if err := w.checkForks(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err := w.flush(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				w.m.check(t, w.s, false)
				if err := w.closeAll(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			if made < 10 || !destaged || reclaimed == 0 || committed < 10 {
				t.Fatalf("%d forks, production destaged: %t, %d bytes reclaimed, %d records committed: not all was tried", made, destaged, reclaimed, committed)
			}
		})
	}
}

// TestForkCrashAtEveryOperation cuts the power, and in another branch kills the
// process, at every operation of a store and of forks of it. Production loses
// nothing by the forks, and each fork that was made holds all that was flushed.
func TestForkCrashAtEveryOperation(t *testing.T) {
	for name, tt := range map[string]struct {
		steps []forkStep
		calls int
		tried func(w *forkWorld) bool
	}{
		"life":    {forkSteps, 90, func(w *forkWorld) bool { return w.made >= 3 }},
		"commit":  {commitSteps, 60, func(w *forkWorld) bool { return w.committed >= 10 }},
		"reclaim": {reclaimSteps, 70, func(w *forkWorld) bool { return w.reclaimed >= 2*MinSegmentBytes }},
	} {
		t.Run(name, func(t *testing.T) { crashForks(t, tt.steps, tt.calls, tt.tried) })
	}
}

func crashForks(t *testing.T, steps []forkStep, calls int, tried func(w *forkWorld) bool) {
	fulfilled := 0 // seeds
	defer func() {
		if fulfilled == 0 && !t.Failed() {
			t.Errorf("no seed of %d made what the calls are there for", rounds(t))
		}
	}()
	for _, seed := range rounds(t) {
		dry := newForkWorld(t, seed, shortJournal)
		if err := dry.runForks(steps, calls); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := dry.closeAll(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if tried(dry) {
			fulfilled++
		}
		for k := int64(1); k <= dry.fault.Count(); k++ {
			w := newForkWorld(t, seed, shortJournal)
			chance := rand.New(rand.NewPCG(seed, uint64(k)))
			w.fault.CrashTornAt(k, chance)
			err := w.runForks(steps, calls)
			if err == nil {
				err = w.closeAll()
			}
			if !errors.Is(err, vfs.ErrCrashed) {
				t.Fatalf("seed %d, operation %d: %v, want the crash", seed, k, err)
			}
			trace, model := w.fault.Trace(), w.m
			for _, crash := range []struct {
				mem   *vfs.Mem
				lossy bool
			}{{w.mem.KillClone(), false}, {w.mem.Crash(chance), true}} {
				w.m, w.views = model.clone(), nil
				w.surviveWithForks(crash.mem, crash.lossy)
				if t.Failed() {
					t.Fatalf("seed %d, crash at operation %d, power lost: %t; the last ones were:\n%s", seed, k, crash.lossy, trace)
				}
			}
		}
	}
}

func (w *forkWorld) surviveWithForks(mem *vfs.Mem, lossy bool) {
	w.t.Helper()
	w.mount(mem)
	w.checkUndamaged()
	if err := w.open(); err != nil {
		w.t.Errorf("recover: %v", err)
		return
	}
	w.m.check(w.t, w.s, lossy)
	for _, f := range w.forks {
		if err := w.checkSurvivor(f, lossy); err != nil {
			w.t.Errorf("%s at %s: %v", f.pin, f.at, err)
		}
	}
	mustClose(w.t, w.s)
}

// checkSurvivor opens a fork after a crash.
func (w *forkWorld) checkSurvivor(f *testFork, lossy bool) (err error) {
	survivor := *f
	survivor.s, survivor.origin = nil, nil
	err = w.openFork(&survivor)
	defer func() {
		if survivor.s != nil {
			err = errors.Join(err, survivor.s.Close())
		}
		if survivor.origin != nil {
			err = errors.Join(err, survivor.origin.Close())
		}
	}()
	switch {
	case f.leaving: // what is left of it is removed, whatever it is
		return nil
	case !f.complete && errors.Is(err, ErrNotStore):
		return nil
	case err != nil:
		return err
	}
	got := make([]byte, survivor.s.SizeBytes())
	if err := survivor.s.ReadAt(got, 0); err != nil {
		return err
	}
	first := len(f.states) - 1 // a killed process loses nothing
	if lossy {
		first = f.flushed
	}
	wanted := f.states[first:]
	if f.attempt != nil {
		wanted = append(slices.Clone(wanted), f.attempt)
	}
	if !slices.ContainsFunc(wanted, func(state []byte) bool { return sameImage(state, got) }) {
		return fmt.Errorf("it shows none of %d states that it may have", len(wanted))
	}
	return nil
}
