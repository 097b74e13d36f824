package journal

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

const (
	interruptedCalls = 160
	interruptions    = 8 // calls between two of them, on average
)

// weary is a context that ends when it was asked so often.
type weary struct {
	context.Context
	left int
}

func (c *weary) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestInterruptedLife goes on with a store again and again after what was going on was cut
// off: by a crash, a kill, a context or a disk without room. Most of it is maintenance, which
// is then taken up after what users did meanwhile: rewinds and undos, pins, views. The model tells what all positions have to read as.
func TestInterruptedLife(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"short journal":             shortJournal,
		"short journal, index runs": shortJournalSmallIndex,
		"directly":                  directDestage,
		"own journal":               ownJournal(shortJournal),
		"thin":                      thinning,
		"thin, index runs":          thinningSmallIndex,
		"thin, short journal":       thinningShortJournal,
		"window":                    pinsLast,
		"window, index runs":        pinsLastSmallIndex,
		"window, budget":            pinsLastBudget,
		"window, thin":              pinsLastHistory,
	} {
		t.Run(name, func(t *testing.T) {
			for _, seed := range interruptedSeeds(t) {
				w := &wanderer{world: newWorld(t, seed, func(cfg *Config) {
					cfg.ScrubEvery = MinScrubEvery
					change(cfg)
				})}
				w.interruptedLife(seed)
			}
		})
	}
}

// interruptedSeeds are six for each round.
func interruptedSeeds(t *testing.T) (seeds []uint64) {
	for _, seed := range rounds(t) {
		for sub := range uint64(6) {
			seeds = append(seeds, seed+1000*sub)
		}
	}
	return seeds
}

func (w *wanderer) interruptedLife(seed uint64) {
	w.t.Helper()
	defer func() {
		if w.t.Failed() {
			w.t.Logf("seed %d, call %d; the last operations were:\n%s", seed, w.count, w.fault.Trace())
		}
	}()
	chance := rand.New(rand.NewPCG(seed, 11))
	steps := w.interruptedSteps()
	for w.count < interruptedCalls {
		if err := w.run(steps, 1+chance.IntN(2*interruptions)); err != nil {
			w.t.Fatalf("seed %d: %v", seed, err)
		}
		w.checkAll(false)
		switch n := 1 + chance.Int64N(60); chance.IntN(4) {
		case 0:
			w.cutOff(steps, chance, n, true)
		case 1:
			w.cutOff(steps, chance, n, false)
		case 2:
			w.tire(int(n))
		case 3:
			w.withoutRoom(n)
		}
		if chance.IntN(2) == 0 { // before what was cut off is taken up again
			if err := w.run(steps[len(steps)-changesOfPath:], 1); err != nil {
				w.t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
	if err := errors.Join(w.closeViews(), w.s.Close()); err != nil {
		w.t.Fatalf("seed %d: %v", seed, err)
	}
	w.checkUndamaged()
}

// checkAll compares every position with the model.
func (w *wanderer) checkAll(lossy bool) {
	w.t.Helper()
	if !lossy {
		if err := w.flush(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.m.check(w.t, w.s, lossy)
}

// cutOff ends the process at the n-th operation of what comes next, and takes it up again.
func (w *wanderer) cutOff(steps []step, chance *rand.Rand, n int64, power bool) {
	w.t.Helper()
	w.fault.CrashTornAt(w.fault.Count()+n, chance)
	err := w.run([]step{{4, (*world).maintain}, {1, (*world).reopen}}, 2)
	if err == nil {
		err = w.run(steps, int(n))
	}
	if err != nil && !errors.Is(err, vfs.ErrCrashed) {
		w.t.Fatalf("before a crash: %v", err)
	}
	w.views = nil
	mem := w.mem.KillClone()
	if power {
		mem = w.mem.Crash(chance)
	}
	w.mount(mem)
	w.checkUndamaged()
	if err := w.open(); err != nil {
		w.t.Fatalf("recover: %v", err)
	}
	w.checkAll(power)
	w.m.resume(w.s)
}

// tire has maintenance end in the middle, because its context does.
func (w *wanderer) tire(n int) {
	w.t.Helper()
	err := w.s.Maintain(&weary{context.Background(), n})
	if err != nil && !errors.Is(err, context.Canceled) {
		w.t.Fatalf("maintain until the context ends: %v", err)
	}
	w.checkAll(false)
}

// withoutRoom has the n-th write of maintenance, and all after it, find no room.
func (w *wanderer) withoutRoom(n int64) {
	w.t.Helper()
	ops := []vfs.Op{vfs.OpWrite, vfs.OpWriteVec, vfs.OpAllocate, vfs.OpCreate, vfs.OpCommit}
	w.fault.FailFrom(w.fault.Count(ops...)+n%20, vfs.ErrNoSpace, ops...)
	err := w.maintain()
	if err != nil && !errors.Is(err, ErrFull) {
		w.t.Fatalf("maintain without room: %v", err)
	}
	w.fault.Mend()
	w.checkAll(false)
}

// changesOfPath are the last steps, which change what maintenance has to do.
const changesOfPath = 4

// changeRetention is what an administrator does. A history that was shorter once has given
// up what it may give up.
func (w *wanderer) changeRetention() error {
	r := w.s.Retention()
	if r.JournalBytes > 0 {
		r.JournalBytes = MinSegmentBytes * int64(1+w.rng.IntN(6))
	}
	if r.Window > 0 {
		r.Window = time.Duration(5+w.rng.IntN(30)) * time.Second
		w.m.window = min(w.m.window, r.Window)
	}
	w.s.SetRetention(r)
	return nil
}

// rest is a time in which nobody writes.
func (w *wanderer) rest() error {
	w.clock.Advance(time.Duration(w.rng.IntN(100)) * time.Minute)
	return nil
}

func (w *wanderer) interruptedSteps() []step {
	on := func(call func() error) func(*world) error { return func(*world) error { return call() } }
	return []step{
		{10, (*world).writeMuch}, {8, (*world).write}, {2, (*world).batch}, {3, (*world).discard}, {1, (*world).resize}, {6, (*world).checkpoint}, {3, (*world).flush},
		{4, (*world).maintain}, {2, on(w.tidy)}, {1, (*world).reopen}, {1, (*world).hold},
		{2, (*world).keepPoint}, {2, (*world).maintainKept}, {1, on(w.rest)}, {1, on(w.changeRetention)}, {1, (*world).scrub},
		{3, (*world).pin}, {2, (*world).unpinAny}, {3, on(w.rewind)}, {3, on(w.undoIfThere)},
	}
}

// undoIfThere undoes the last rewind, unless what there was to return to is gone.
func (w *wanderer) undoIfThere() error {
	at := w.undo
	w.undo = Position{}
	if !slices.Contains(w.candidates(), at) {
		return nil
	}
	return w.forkAt(at)
}
