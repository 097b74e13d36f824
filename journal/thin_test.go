package journal

import (
	"bytes"
	"errors"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestThinningKeepsWhatItMust runs random calls while history is thinned, and
// compares after every few of them every position that there ever was with the
// model: it reads as ever, or is refused with the named error and may be.
func TestThinningKeepsWhatItMust(t *testing.T) {
	var thin []step
	for _, load := range workloads {
		if load.name == "thin" {
			thin = load.steps
		}
	}
	for name, change := range map[string]func(*Config){"": thinning, "small index": thinningSmallIndex, "short journal": thinningShortJournal} {
		t.Run(name, func(t *testing.T) {
			thin := thin
			if name == "small index" {
				thin = append(slices.Clone(thin), step{1, (*world).drain})
			}
			// 2002 found that a table of a segment's part was taken for that of
			// the segment in its place, which has the same id.
			for _, seed := range append([]uint64{20}, rounds(t)...) {
				for sub := range uint64(4) {
					w := newWorld(t, seed*100+sub, change)
					rewrites := uint64(0)
					for range 8 {
						before := w.s
						if err := w.run(thin, 60); err != nil {
							t.Fatalf("seed %d/%d: %v", seed, sub, err)
						}
						w.m.learn(w.s)
						if err := errors.Join(w.maintain(), w.s.Flush(t.Context())); err != nil {
							t.Fatalf("seed %d/%d: %v", seed, sub, err)
						}
						w.m.acknowledge()
						if w.s == before {
							rewrites += w.s.Stats().Thinning.Rewrites
						}
						w.m.check(t, w.s, false)
						if t.Failed() {
							t.Fatalf("seed %d/%d", seed, sub)
						}
					}
					if err := errors.Join(w.closeViews(), w.s.Close()); err != nil {
						t.Fatal(err)
					}
					report, err := Verify(t.Context(), Config{FS: w.mem, Dir: worldDir})
					if err != nil || !report.OK() {
						t.Fatalf("seed %d/%d: verify: %v, damage %+v", seed, sub, err, report.Damage)
					}
					t.Logf("seed %d/%d: %d rewrites seen, %d segments", seed, sub, rewrites, len(report.Segments))
				}
			}
		})
	}
}

func manualClock() *clock.Manual { return clock.NewManual(worldStart) }

// The members of a group write different amounts, are maintained at other
// moments and are restarted, and list the same checkpoints.
func TestMembersListTheSameCheckpoints(t *testing.T) {
	now := manualClock()
	a, b := newThinRig(t, now, nil), newThinRig(t, now, nil)
	for i := range 120 {
		a.second(4)
		b.second(1)
		now.Advance(time.Second)
		if i%5 == 0 {
			a.maintain()
		}
		if i%31 == 30 {
			b.maintain()
			mustClose(t, b.s)
			b.s = mustOpen(t, b.cfg)
		}
		same := slices.EqualFunc(a.s.Checkpoints(), b.s.Checkpoints(), func(x, y Checkpoint) bool { return x.Number == y.Number })
		if !same {
			t.Fatalf("after %d seconds one member lists %d checkpoints, the other %d others", i, len(a.s.Checkpoints()), len(b.s.Checkpoints()))
		}
	}
	if a.maintain().Rewrites == 0 || b.maintain().ReadBytes+b.s.Stats().Thinning.ReadBytes == 0 {
		t.Fatal("nothing was thinned")
	}
	a.checkListed()
	b.checkListed()
}

// What is not in the list any more is refused by every way in, with the
// neighbours, and what the neighbours say is true.
func TestDroppedPositionIsRefused(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(60)
	r.maintain()
	r.checkListed()
	gone := r.dropped().Position
	_, viewErr := r.s.View(gone)
	_, forkErr := r.s.Fork(gone, "rewind")
	_, recordsErr := r.s.Records(gone)
	for what, err := range map[string]error{
		"view": viewErr, "fork": forkErr, "pin": r.s.Pin("p", gone),
		"adopt": r.s.Adopt(Timeline{ID: 77, Parent: gone, Created: worldStart, Reason: "failover"}),
	} {
		var thinned *ThinnedError
		if !errors.As(err, &thinned) || !errors.Is(err, ErrThinned) || !errors.Is(err, ErrHorizon) {
			t.Fatalf("%s: %v, want a ThinnedError", what, err)
		}
		if thinned.Before.Number == 0 || thinned.After.Number == 0 || thinned.After.Number-thinned.Before.Number != 4 {
			t.Errorf("%s: the neighbours are %d and %d, want the two around it", what, thinned.Before.Number, thinned.After.Number)
		}
	}
	if !errors.Is(recordsErr, ErrHorizon) {
		t.Errorf("records behind it: %v, want ErrHorizon", recordsErr)
	}
	if len(r.s.Timelines()) != 1 || len(r.s.Pins()) != 0 {
		t.Errorf("there are timelines %v and pins %v", r.s.Timelines(), r.s.Pins())
	}
}

// A replica that is behind holds off what it has to read, unless the journal is
// strained; what it stood at is then not to be had, and it takes an image.
func TestReaderHoldsThinningOff(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(10)
	reader, err := r.s.Records(r.points[5].Position)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	r.seconds(60)
	r.maintain()
	next := r.points[5].Position.Seq + 1
	for ; next <= r.points[30].Position.Seq; next++ {
		if got, err := reader.Next(t.Context()); err != nil || got.Position.Seq != next {
			t.Fatalf("record %d is %d, %v", next, got.Position.Seq, err)
		}
	}
	before := r.s.Stats().Thinning.Rewrites
	if after := r.maintain().Rewrites; after <= before {
		t.Errorf("what the reader has read was not thinned: %d rewrites, then %d", before, after)
	}
	r.s.SetRetention(Retention{JournalBytes: r.s.Stats().JournalBytes / 3, History: r.cfg.History})
	r.s.mu.RLock()
	strained := r.s.strainedLocked()
	r.s.mu.RUnlock()
	if !strained {
		t.Fatal("the journal is not strained")
	}
	if err := r.s.thinDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = reader.Next(t.Context())
	}
	if !errors.Is(err, ErrHorizon) {
		t.Errorf("the reader ends with %v, want ErrHorizon", err)
	}
}

// Somebody pins what a rewrite under way would drop: the rewrite is given up.
func TestRewriteGivesWayToAPin(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(60)
	if err := r.s.supply(); err != nil {
		t.Fatal(err)
	}
	job := r.s.nextThinJob()
	if job == nil {
		t.Fatal("nothing is due")
	}
	defer r.s.releaseParts(job.parts)
	survivors, err := r.s.survivors(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := r.s.layOut(job, survivors)
	if err == nil {
		err = r.s.writeOutputs(t.Context(), job, outputs, survivors)
	}
	if err != nil {
		t.Fatal(err)
	}
	pinned := r.points[1]
	if !job.drops(pinned.Position) {
		t.Fatalf("the rewrite keeps checkpoint %d", pinned.Number)
	}
	if err := r.s.Pin("snapshot", pinned.Position); err != nil {
		t.Fatal(err)
	}
	if err := r.s.replaceThinned(job, outputs); !errors.Is(err, errThinLater) {
		t.Fatalf("the rewrite ends with %v, want errThinLater", err)
	}
	r.s.discardOutputs(outputs)
	if r.maintain().Rewrites == 0 {
		t.Error("nothing was thinned later")
	}
	v, err := r.s.View(pinned.Position)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if !bytes.Equal(readAll(t, v, rigVolumeBytes), r.images[pinned.Position]) {
		t.Error("the pinned checkpoint reads otherwise than it did")
	}
}

// Thinning does not begin where its output would leave no room for writes, and
// gives up nothing for that.
func TestNoThinningWithoutRoom(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(60)
	_, free, err := r.mem.Space(worldDir)
	if err != nil {
		t.Fatal(err)
	}
	total, _, _ := r.mem.Space(worldDir)
	r.mem.SetCapacity(total - free + 2*MinSegmentBytes)
	if n := r.maintain().Rewrites; n != 0 {
		t.Errorf("%d rewrites on a disk that is nearly full", n)
	}
	r.checkListed()
	r.mem.SetCapacity(1 << 40)
	if r.maintain().Rewrites == 0 {
		t.Error("nothing is thinned after space came back")
	}
	r.checkListed()
}

// Nothing is dropped soon after a store is opened, nor sooner than it has left
// the list.
func TestThinningSettles(t *testing.T) {
	r := newThinRig(t, manualClock(), func(cfg *Config) { cfg.thinSettle, cfg.thinGrace = 2*time.Minute, 30*time.Second })
	r.seconds(119)
	if n := r.maintain().Rewrites; n != 0 {
		t.Errorf("%d rewrites within two minutes", n)
	}
	r.checkListed()
	r.seconds(1)
	if r.maintain().Rewrites == 0 {
		t.Error("nothing is thinned after two minutes")
	}
	for _, c := range r.points[len(r.points)-34:] {
		if v, err := r.s.View(c.Position); err != nil {
			t.Errorf("checkpoint %d is gone within the grace: %v", c.Number, err)
		} else if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A record that is damaged is left where it is, found by Verify, and ends
// nothing.
func TestDamageInAThinnedSegment(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(60)
	flip := func(g *segment, off int64) {
		t.Helper()
		var b [1]byte
		if err := readFull(g.file, b[:], off); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 4
		if _, err := g.file.WriteAt(b[:], off); err != nil {
			t.Fatal(err)
		}
	}
	flip(r.s.lineLocked(r.s.Tip().Timeline)[3], blockBytes+8) // a frame's header
	r.maintain()
	r.seconds(30)
	if r.maintain().Rewrites == 0 {
		t.Error("nothing behind the damage is thinned")
	}
	var thinned *segment
	for _, g := range r.s.lineLocked(r.s.Tip().Timeline) {
		if g.thinned > 0 && g.end > 2*blockBytes {
			thinned = g
		}
	}
	flip(thinned, blockBytes+frameHeaderBytes)
	mustClose(t, r.s)
	report, err := Verify(t.Context(), Config{FS: r.mem, Dir: worldDir})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for _, d := range report.Damage {
		files[d.File] = true
	}
	if len(files) != 2 || !files[thinned.name] {
		t.Errorf("damage is found in %v, want %s and one more", files, thinned.name)
	}
	r.s = mustOpen(t, r.cfg)
}

// A thinned segment can end between two kept checkpoints. The horizon never
// stops there: what it is at can be opened.
func TestHorizonStopsAtWhatCanBeOpened(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(200)
	r.maintain()
	inexact := map[Position]bool{}
	note := func() {
		r.s.mu.RLock()
		defer r.s.mu.RUnlock()
		for _, g := range r.s.segments {
			if part := (pathPart{g.snapshot(), g.last}); !part.endsExactly() {
				inexact[Position{g.timeline, g.last}] = true
			}
		}
	}
	if note(); len(inexact) == 0 {
		t.Fatal("each segment ends at a kept checkpoint")
	}
	for budget := r.s.Stats().JournalBytes; budget > 4*MinSegmentBytes; budget -= MinSegmentBytes {
		r.s.SetRetention(Retention{JournalBytes: budget, History: r.cfg.History})
		r.maintain()
		note()
		at := r.s.Horizon()
		v, err := r.s.View(at)
		if err != nil {
			t.Fatalf("open the horizon with a budget of %d: %v", budget, err)
		}
		want, known := r.images[at]
		if got := readAll(t, v, rigVolumeBytes); known && !bytes.Equal(got, want) {
			t.Fatalf("the horizon with a budget of %d reads otherwise than it did", budget)
		} else if inexact[at] {
			t.Fatalf("the horizon with a budget of %d is at %s, between kept checkpoints", budget, at)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if n := r.s.Stats().JournalBytes; n > budget+4*MinSegmentBytes {
			t.Fatalf("the journal has %d bytes with a budget of %d", n, budget)
		}
	}
}

// A timeline is left, and taken up again when another one forks from it, as a
// replica does. Its segments then have ids on both sides of the other's, which
// must go on to rise along every path.
func TestThinningATimelineThatWasTakenUpAgain(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(10)
	first := r.s.Timelines()[0]
	if _, err := r.s.Fork(r.points[4].Position, "rewind"); err != nil {
		t.Fatal(err)
	}
	r.seconds(20)
	second := r.points[len(r.points)-1].Position
	if err := r.s.Adopt(first); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		r.foreignSecond()
	}
	if r.maintain().Rewrites == 0 {
		t.Fatal("nothing was thinned")
	}
	check := func() {
		t.Helper()
		v, err := r.s.View(second)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if !bytes.Equal(readAll(t, v, rigVolumeBytes), r.images[second]) {
			t.Error("the other timeline reads otherwise than it did")
		}
		if !bytes.Equal(readAll(t, r.s, rigVolumeBytes), r.images[r.points[len(r.points)-1].Position]) {
			t.Error("the live volume reads otherwise than it did")
		}
	}
	check()
	r.s.mu.RLock()
	path, err := r.s.tree.path(r.s.state.Base, second)
	parts := r.s.partsLocked(path)
	r.s.mu.RUnlock()
	if err != nil || !slices.IsSortedFunc(parts, func(a, b pathPart) int { return int(a.id) - int(b.id) }) {
		t.Errorf("ids do not rise along the other timeline's path: %v", err)
	}
	mustClose(t, r.s)
	r.s = mustOpen(t, r.cfg)
	check()
}

// Space runs out at any write, sync or commit of a rewrite: nothing is lost, the
// store goes on, nothing is left behind, and it is done later.
func TestRewriteRunsOutOfSpace(t *testing.T) {
	for _, op := range []vfs.Op{vfs.OpWrite, vfs.OpSync, vfs.OpCommit} {
		for k, met := int64(1), true; met; k++ {
			r := newThinRig(t, manualClock(), nil)
			r.seconds(40)
			if err := r.s.supply(); err != nil {
				t.Fatal(err)
			}
			before := r.fault.Count(op)
			r.fault.FailAt(before+k, vfs.ErrNoSpace, op)
			if err := r.s.thinDue(t.Context()); err != nil {
				t.Fatalf("%s %d: %v", op, k, err)
			}
			met = r.fault.Count(op) >= before+k
			if !met {
				r.spend(op)
			}
			if err := r.s.Err(); err != nil {
				t.Fatalf("%s %d: %v", op, k, err)
			}
			r.checkListed()
			r.maintain()
			r.checkListed()
			names, err := r.mem.ReadDir(path.Join(worldDir, journalDir))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if isRewritten(name) && !r.s.namesLocked(path.Join(journalDir, name)) {
					t.Errorf("%s %d: %s is left behind", op, k, name)
				}
			}
			if r.s.Stats().Thinning.Rewrites == 0 {
				t.Fatalf("%s %d: nothing was thinned later", op, k)
			}
		}
	}
}
