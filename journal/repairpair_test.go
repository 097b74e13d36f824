package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestRepairInAReplicatedPair: random changes go from one store to another, which
// destages by itself; bytes change on either side; each is repaired from the other
// and then reads, at each position that it has, as its model says.
func TestRepairInAReplicatedPair(t *testing.T) {
	for _, seed := range rounds(t) {
		w := newReplicaWorld(t, seed, shortJournal)
		w.cfg.ScrubEvery, w.src.cfg.ScrubEvery = DefaultScrubEvery, DefaultScrubEvery
		for round := range 12 {
			w.followAll(t)
			side, other := w.world, w.src
			if round%2 == 1 {
				side, other = w.src, w.world
			}
			places := side.randomDamage(t, w.rng, other.s)
			scrubWhole(t, side)
			mend(t, side.s, other.s, nil)
			if got := side.s.Damaged(); len(got) > 0 {
				t.Fatalf("seed %d, round %d: flips at %v are not mended: %+v", seed, round, places, got)
			}
			side.m.check(t, side.s, false)
			if t.Failed() {
				t.Fatalf("seed %d, round %d: after flips at %v", seed, round, places)
			}
		}
		w.views, w.src.views = nil, nil
		checkVerifies(t, w.mem)
		checkVerifies(t, w.src.mem)
		mustClose(t, w.s)
		mustClose(t, w.src.s)
	}
}

// followAll makes changes on the source, brings them all to the replica and lets that
// destage.
func (w *replicaWorld) followAll(t *testing.T) {
	t.Helper()
	for range 12 {
		if err := w.produce(); err != nil {
			t.Fatal(err)
		}
		for w.s.Tip() != w.src.s.Tip() {
			if err := w.ship(); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.src.s.appendMu.Lock()
	w.src.s.retireActive()
	w.src.s.appendMu.Unlock()
	if err := errors.Join(w.flush(), w.maintain(), w.src.s.sealPending(), w.s.sealPending()); err != nil {
		t.Fatal(err)
	}
}

// randomDamage flips bytes of what another store has, too.
func (w *world) randomDamage(t *testing.T, rng *rand.Rand, other *Store) (places []string) {
	t.Helper()
	mask := byte(1) << rng.IntN(8)
	hit := func(name string, off int64) {
		flip(t, w.mem, name, off, mask)
		places = append(places, fmt.Sprintf("%s:%d", name, off))
	}
	for _, g := range sealedSegments(w.s) {
		frames := framesOf(t, g)
		f := frames[rng.IntN(len(frames))]
		if _, err := other.View(f.Position); err != nil || f.Position.Seq <= other.state.Base.Seq {
			continue
		}
		hit(g.name, f.off+rng.Int64N(frameHeaderBytes+int64(len(f.Payload))))
	}
	if name := []string{baseFile, baseSumsFile}[rng.IntN(2)]; name == baseFile {
		for range 3 {
			hit(name, rng.Int64N(w.s.summed.Load()))
		}
	} else {
		hit(name, rng.Int64N(w.s.summed.Load()/SectorBytes*sumBytes))
	}
	return places
}

func checkVerifies(t *testing.T, mem *vfs.Mem) {
	t.Helper()
	report, err := Verify(context.Background(), Config{FS: mem.KillClone(), Dir: worldDir})
	if err != nil || !report.OK() {
		t.Fatalf("%+v, %v", report.Damage, err)
	}
}
