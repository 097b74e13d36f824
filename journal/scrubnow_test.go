package journal

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// flipAt changes a byte of a file of a world's store.
func flipAt(t *testing.T, w *world, name string, off int64) {
	t.Helper()
	f, err := w.cfg.FS.Open(w.cfg.file(name))
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	if err == nil {
		b[0] ^= 0x10
		_, err = f.WriteAt(b[:], off)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// oldestSegment is the name of a sealed segment with records.
func oldestSegment(w *world) string {
	w.s.mu.RLock()
	defer w.s.mu.RUnlock()
	var first *segment
	for _, g := range w.s.segments {
		if first == nil || g.id < first.id {
			first = g
		}
	}
	return first.name
}

// TestScrubNow finds at once what is damaged, tells how far it is, and says why it is
// not repaired where there is nobody to help.
func TestScrubNow(t *testing.T) {
	w := scrubbedWorld(t, 11)
	defer func() { mustClose(t, w.s) }()
	if err := w.s.ScrubNow(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if found := w.s.DamagedPlaces(); len(found) > 0 {
		t.Fatalf("a whole store is damaged: %+v", found)
	}
	name := oldestSegment(w)
	flipAt(t, w, name, blockBytes+frameHeaderBytes+7)
	told := int64(0)
	if err := w.s.ScrubNow(context.Background(), func(read, total int64) {
		if read < told || total < read {
			t.Errorf("%d of %d bytes are read, after %d", read, total, told)
		}
		told = read
	}); err != nil {
		t.Fatal(err)
	}
	found := w.s.DamagedPlaces()
	if len(found) != 1 || found[0].File != name || found[0].Reason != "" {
		t.Fatalf("found %+v, want one place in %s that nobody tried to repair", found, name)
	}
	if err := w.s.RepairNow(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	if found := w.s.DamagedPlaces(); len(found) != 1 || !strings.Contains(found[0].Reason, "not replicated") {
		t.Errorf("left are %+v, want one place that cannot be repaired because there is no other copy", found)
	}
	if w.s.ScrubStats().LastFull.IsZero() {
		t.Error("it does not count as a pass of the scrub")
	}
}

// TestRepairNowMendsAlone: what is left of a footer follows from the records.
func TestRepairNowMendsAlone(t *testing.T) {
	w := scrubbedWorld(t, 12)
	defer func() { mustClose(t, w.s) }()
	name := oldestSegment(w)
	w.s.mu.RLock()
	end := int64(0)
	for _, g := range w.s.segments {
		if g.name == name {
			end = g.bytes - blockBytes
		}
	}
	w.s.mu.RUnlock()
	began := w.clock.Now()
	flipAt(t, w, name, end+9)
	if err := w.s.ScrubNow(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if found := w.s.DamagedPlaces(); len(found) != 1 {
		t.Fatalf("found %+v, want the trailer", found)
	}
	if err := w.s.RepairNow(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	if found := w.s.DamagedPlaces(); len(found) != 0 {
		t.Errorf("left are %+v", found)
	}
	if done := w.s.Repaired(began); len(done) != 1 || done[0].File != name {
		t.Errorf("repaired was %+v, want something in %s", done, name)
	}
}

// TestRepairNowEndsWithItsContext: a peer that does not come keeps nobody waiting.
func TestRepairNowEndsWithItsContext(t *testing.T) {
	w := scrubbedWorld(t, 13)
	defer func() { mustClose(t, w.s) }()
	flipAt(t, w, oldestSegment(w), blockBytes+frameHeaderBytes+7)
	if err := w.s.ScrubNow(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := w.s.RepairNow(ctx, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the wait", err)
	}
}

// TestDamageIsKnownAfterAnOpen: a store that is closed, or killed after the scrub's next
// turn, does not pass for whole when it is opened again; once it is whole, it does.
func TestDamageIsKnownAfterAnOpen(t *testing.T) {
	for _, kill := range []bool{false, true} {
		w := scrubbedWorld(t, 14)
		name := oldestSegment(w)
		flipAt(t, w, name, blockBytes+frameHeaderBytes+7)
		if err := w.s.ScrubNow(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		want := w.s.Damaged()
		if kill {
			crashed := w.mem.Crash(w.rng)
			_ = w.s.Close() // of a process that is gone
			w.mount(crashed)
		} else {
			mustClose(t, w.s)
		}
		w.s = mustOpen(t, w.cfg)
		if got := w.s.Damaged(); len(want) != 1 || len(got) != 1 || got[0] != want[0] {
			t.Fatalf("killed %v: known are %+v, want %+v", kill, got, want)
		}
		flipAt(t, w, name, blockBytes+frameHeaderBytes+7) // back
		if err := w.s.ScrubNow(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		mustClose(t, w.s)
		w.s = mustOpen(t, w.cfg)
		if got := w.s.Damaged(); len(got) != 0 {
			t.Errorf("killed %v: a whole store knows of %+v", kill, got)
		}
		mustClose(t, w.s)
	}
}

// A store that has more damaged places than are kept, with long texts, is opened, too.
func TestMuchDamageIsKnownAfterAnOpen(t *testing.T) {
	w := scrubbedWorld(t, 15)
	for i := range 3 * maxKeptDamage {
		_ = w.s.noteDamage(&CorruptError{File: baseFile, Offset: int64(i) * SectorBytes, What: "sector", Wanted: strings.Repeat("é", 300), Found: "y"})
	}
	mustClose(t, w.s)
	w.s = mustOpen(t, w.cfg)
	if n := len(w.s.Damaged()); n != maxKeptDamage {
		t.Errorf("%d places are known, want %d", n, maxKeptDamage)
	}
	mustClose(t, w.s)
}

// TestScrubKeepsWhatItDoesNotRead: damage that a read has met in the segment that is being
// written is known until that is read.
func TestScrubKeepsWhatItDoesNotRead(t *testing.T) {
	w := scrubbedWorld(t, 17)
	defer func() { mustClose(t, w.s) }()
	for w.s.active == nil || w.s.active.empty() {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.s.noteDamage(&CorruptError{File: w.s.active.name, Offset: blockBytes, What: "payload", Wanted: "x", Found: "y"})
	if err := w.s.ScrubNow(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if found := w.s.Damaged(); len(found) != 1 {
		t.Errorf("known are %+v, want the place that no pass reads", found)
	}
}
