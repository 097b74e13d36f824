package journal

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestDrain drains a store that was rewound, whose tip has no record of its own
// and lies in the middle of a segment of another timeline.
func TestDrain(t *testing.T) {
	w := newWorld(t, 1, shortJournal)
	if err := w.run([]step{{8, (*world).write}, {2, (*world).discard}, {1, (*world).checkpoint}}, 60); err != nil {
		t.Fatal(err)
	}
	at := w.m.past[30]
	if err := errors.Join(w.flush(), w.s.Pin("mine", at), w.reopen()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.Fork(at, "rewind"); err != nil {
		t.Fatal(err)
	}
	w.m.learn(w.s)
	tip := w.s.Tip()
	w.m.tip, w.m.images[tip] = tip, w.m.images[at]
	f, err := w.mem.Create(path.Join(worldDir, (runKey{tip.Timeline, 0, 2}).name()+".tmp"))
	if err = errors.Join(err, f.Close(), w.reopen()); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Drain(context.Background(), false); !errors.Is(err, ErrHeld) {
		t.Fatalf("with a pin and another timeline: %v", err)
	}
	v, err := w.s.View(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.s.Drain(context.Background(), true); !errors.Is(err, ErrHeld) {
		t.Fatalf("with a view open: %v", err)
	}
	if len(w.s.Pins()) != 1 || w.s.Horizon() == tip {
		t.Fatal("a drain that was refused has changed the store")
	}
	_ = v.Close()
	if err := w.drain(); err != nil {
		t.Fatal(err)
	}
	if w.s.Tip() != tip || len(w.s.Timelines()) != 1 {
		t.Fatalf("tip %s, want %s; timelines %v", w.s.Tip(), tip, w.s.Timelines())
	}
	if err := w.drain(); err != nil {
		t.Fatalf("again: %v", err)
	}
	// It goes on as a store.
	if err := errors.Join(w.write(), w.flush(), w.reopen(), w.run(faultSteps, 20), w.reopen()); err != nil {
		t.Fatal(err)
	}
	w.m.check(t, w.s, false)
	mustClose(t, w.s)
}

func TestDrainPlan(t *testing.T) {
	w := newWorld(t, 1, nil)
	if err := w.run([]step{{8, (*world).write}, {1, (*world).checkpoint}}, 40); err != nil {
		t.Fatal(err)
	}
	plan := func() DrainPlan {
		t.Helper()
		mustClose(t, w.s)
		r, err := OpenReadOnly(Config{FS: w.mem, Dir: worldDir})
		if err != nil {
			t.Fatal(err)
		}
		p := r.DrainPlan()
		if err := errors.Join(r.Close(), w.open()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := plan()
	if points := w.s.Checkpoints(); p.Held() || p.Checkpoints != len(points) || !p.Oldest.Equal(points[0].Time) || p.Tip != w.m.tip || p.SizeBytes != w.m.size || p.JournalBytes == 0 {
		t.Errorf("a store that nobody relies on: %+v", p)
	}
	old := w.s.Tip().Timeline
	if _, err := w.s.Fork(w.s.Tip(), "recovered"); err != nil {
		t.Fatal(err)
	}
	if p := plan(); p.Held() {
		t.Errorf("a fork at the tip leaves nothing behind: %+v", p)
	}
	if _, err := w.s.Fork(w.m.past[20], "rewind"); err != nil {
		t.Fatal(err)
	}
	if p := plan(); len(p.Timelines) != 1 || p.Timelines[0].ID != old {
		t.Errorf("a rewind leaves timeline %s behind: %+v", old, p)
	}
	if err := w.s.Pin("mine", w.s.Tip()); err != nil {
		t.Fatal(err)
	}
	if p := plan(); len(p.Pins) != 1 {
		t.Errorf("a pin is not told: %+v", p)
	}
	mustClose(t, w.s)
}

// TestDrainFails makes each operation of a drain fail once: it says so, and the
// next one, after another open, comes to its end with the same volume.
func TestDrainFails(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpSync, vfs.OpSyncDir, vfs.OpCommit, vfs.OpWrite, vfs.OpRemove, vfs.OpPunchHole} {
		t.Run(op.String(), func(t *testing.T) {
			for k, done := int64(1), false; !done; k++ {
				w := newWorld(t, 2, shortJournal)
				steps := []step{{8, (*world).write}, {3, (*world).discard}, {1, (*world).fork}, {1, (*world).pin}}
				if err := errors.Join(w.run(steps, 80), w.reopen()); err != nil {
					t.Fatal(err)
				}
				w.fault.FailAt(w.fault.Count(op)+k, errDisk, op)
				err := w.drain()
				done = err == nil
				if !done && !errors.Is(err, errDisk) {
					t.Fatalf("%s %d: %v", op, k, err)
				}
				_ = w.s.Close() // of a store that may be poisoned
				w.mount(w.mem.Crash(rand.New(rand.NewPCG(1, uint64(k)))))
				if err := w.open(); err != nil {
					t.Fatalf("%s %d: open: %v", op, k, err)
				}
				if got := readAll(t, w.s, w.s.SizeBytes()); w.s.Tip() != w.m.tip || !bytes.Equal(got, w.m.live()) {
					t.Fatalf("%s %d: tip %s, want %s, or another volume", op, k, w.s.Tip(), w.m.tip)
				}
				if err := w.drain(); err != nil {
					t.Fatalf("%s %d: again: %v", op, k, err)
				}
				mustClose(t, w.s)
			}
		})
	}
}

// TestDrainNeedsSoundRecords: damage is not moved into the image.
func TestDrainNeedsSoundRecords(t *testing.T) {
	w := newWorld(t, 1, nil)
	if err := w.run([]step{{1, (*world).write}}, 10); err != nil {
		t.Fatal(err)
	}
	g := w.s.active
	newest := g.changes[len(g.changes)-1].loc // nothing has overwritten it
	mustClose(t, w.s)
	if err := w.mem.Corrupt(path.Join(worldDir, g.name), newest.fileOffset(), 8); err != nil {
		t.Fatal(err)
	}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Drain(context.Background(), true); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a damaged record: %v", err)
	}
	if image, err := contentOf(w.mem, path.Join(worldDir, baseFile)); err != nil || !bytes.Equal(image, make([]byte, worldVolumeBytes)) {
		t.Fatalf("the base has changed: %v", err)
	}
	mustClose(t, w.s)
}

// TestDrainOnAFullDisk: what is kept for reuse, and a segment at a time, are room enough
// for a base that has nothing yet of what the journal holds.
func TestDrainOnAFullDisk(t *testing.T) {
	r := newFullRig(t, 60, nil)
	ctx := context.Background()
	r.mustWrite(12, testVolumeBytes, 1)
	want := readAll(t, r.s, testVolumeBytes)
	if err := errors.Join(r.s.Flush(ctx), r.s.Maintain(ctx)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, r.s)
	r.fillOutside()
	r.s = mustOpen(t, r.cfg)
	if err := r.s.Drain(ctx, false); err != nil {
		t.Fatal(err)
	}
	mustClose(t, r.s)
	base, err := r.mem.Open(BasePath(r.cfg.Dir))
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	got := make([]byte, testVolumeBytes)
	if err := readFull(base, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the image is not the volume: %v", err)
	}
}

// TestDrainOfADamagedJournalGivesNothingUp: what is damaged in the present may be sound at
// a point that is pinned, which a drain that ends at the damage must not have given up.
func TestDrainOfADamagedJournalGivesNothingUp(t *testing.T) {
	r := newThinRig(t, manualClock(), func(cfg *Config) { cfg.History, cfg.Window = nil, time.Hour })
	r.seconds(60)
	pinned := r.points[40]
	if err := r.s.Pin("sound", pinned.Position); err != nil {
		t.Fatal(err)
	}
	var newest location
	for sector := uint64(0); sector < rigVolumeBytes/SectorBytes; sector++ {
		_ = r.s.index.lookup(sector, sector+1, func(e extent) bool { // never fails
			if !e.loc.isZeroes() {
				newest = max(newest, e.loc)
			}
			return false
		})
	}
	flip(t, r.mem, segmentName(newest.segment()), newest.fileOffset()+100, 4)
	horizon := r.s.Horizon()
	if err := r.s.Drain(t.Context(), true); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("drain of a damaged journal: %v", err)
	}
	if r.s.Pins()["sound"] != pinned.Position || r.s.Horizon() != horizon {
		t.Errorf("pins %v and horizon %s after a drain that failed, want the pin, and %s", r.s.Pins(), r.s.Horizon(), horizon)
	}
	r.checkOpens(pinned)
}

// TestDrainLooksAgain: who pins, or looks at, what a drain is about to leave, and does so after the drain has
// asked who needs it, keeps it.
func TestDrainLooksAgain(t *testing.T) {
	hold := map[string]func(s *Store, at Position) (release func() error, err error){
		"pin": func(s *Store, at Position) (func() error, error) {
			return func() error { return s.Unpin("late") }, s.Pin("late", at)
		},
		"view": func(s *Store, at Position) (func() error, error) {
			v, err := s.View(at)
			return v.Close, err
		},
	}
	for name, take := range hold {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, shortJournal)
			if err := errors.Join(w.run([]step{{8, (*world).write}}, 20), w.flush(), w.drain()); err != nil {
				t.Fatal(err)
			}
			back := w.s.Tip()
			if err := errors.Join(w.run([]step{{8, (*world).write}}, 20), w.flush()); err != nil {
				t.Fatal(err)
			}
			left, image := w.s.Tip(), w.m.live()
			if _, err := w.s.Fork(back, "rewind"); err != nil {
				t.Fatal(err)
			}
			horizon := w.s.Horizon()
			if err := w.s.checkDrain(true); err != nil {
				t.Fatal(err)
			}
			release, err := take(w.s, left)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.s.leavePast(); !errors.Is(err, ErrHeld) {
				t.Fatalf("with a %s on what it leaves: %v, want ErrHeld", name, err)
			}
			v, err := w.s.View(left)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, v.SizeBytes())
			if err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, image) || w.s.Horizon() != horizon {
				t.Errorf("what is held reads as something else, or the horizon has moved: %v", err)
			}
			if err := errors.Join(v.Close(), release(), w.s.Drain(context.Background(), true)); err != nil {
				t.Fatal(err)
			}
			if lines := w.s.Timelines(); len(lines) != 1 || w.s.Horizon() != w.s.Tip() {
				t.Errorf("after that there are %v, and the horizon is %s", lines, w.s.Horizon())
			}
			if err := w.s.Pin("late", left); !errors.Is(err, ErrUnknownPosition) {
				t.Errorf("a pin of what is gone: %v", err)
			}
			mustClose(t, w.s)
		})
	}
}

// TestDrainUnderAReader: whoever reads segments meanwhile lets go of them when their files are
// gone, which are then none for reuse.
func TestDrainUnderAReader(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, 1, nil)
	s := w.s
	writeSegments(t, s, 4)
	if err := s.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	var read []*segment // as reads and the scrub do
	for g := s.holdNextSealed(0); g != nil; g = s.holdNextSealed(g.id + 1) {
		read = append(read, g)
	}
	if len(read) < 2 {
		t.Fatalf("%d segments are sealed", len(read))
	}
	if err := s.Drain(ctx, false); err != nil {
		t.Fatal(err)
	}
	for _, g := range read {
		s.releaseSegment(g)
	}
	if len(s.free) > 0 {
		t.Errorf("files that were removed wait for reuse: %v", s.free)
	}
	writeSegments(t, s, 3)
	if err := errors.Join(s.Maintain(ctx), s.Close()); err != nil {
		t.Fatal(err)
	}
	w.checkUndamaged()
}
