package journal

import (
	"bytes"
	"errors"
	"path"
	"slices"
	"testing"
	"time"
)

// writesOfNextJob are the write records that the next rewrite keeps, and those
// that it drops, in the order of the journal.
func (r *thinRig) writesOfNextJob() (job *thinJob, kept, dropped []survivor) {
	r.t.Helper()
	job = r.s.nextThinJob()
	if job == nil {
		r.t.Fatal("nothing is to be thinned")
	}
	defer r.s.releaseParts(job.parts)
	survivors, err := r.s.survivors(r.t.Context(), job)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range job.parts {
		heads, err := r.s.readHeads(r.t.Context(), job, i, r.s.newThinPacer())
		if err != nil {
			r.t.Fatal(err)
		}
		for _, h := range heads {
			switch {
			case h.kind != KindWrite || h.seq > job.upTo():
			case slices.Contains(survivors, h.survivor):
				kept = append(kept, h.survivor)
			default:
				dropped = append(dropped, h.survivor)
			}
		}
	}
	return job, kept, dropped
}

// A damaged record that is to be kept is not copied: its segments stay as they
// are, the damage is told, and the rest is thinned. Whoever reads it gets an error.
func TestThinningDoesNotCopyDamage(t *testing.T) {
	for name, into := range map[string]int64{"header": 8, "payload": frameHeaderBytes + 77} {
		t.Run(name, func(t *testing.T) {
			r := newThinRig(t, manualClock(), nil)
			r.seconds(60)
			job, kept, _ := r.writesOfNextJob()
			v := kept[len(kept)/2]
			g := job.parts[v.part].segment
			flip(t, r.mem, g.name, v.off+into, 4)
			if r.maintain().Rewrites == 0 {
				t.Error("damage keeps all the rest from being thinned")
			}
			if r.s.segments[g.id] != g {
				t.Error("the segment with the damaged record was replaced")
			}
			found := r.s.Damaged()
			if len(found) != 1 || found[0].File != g.name || found[0].Offset != v.off {
				t.Fatalf("known damage is %v, want the record at %d of %s", found, v.off, g.name)
			}
			if damaged := r.wrongOrDamaged(); damaged == 0 {
				t.Error("nobody who reads the damaged record learns of it")
			}
			mustClose(t, r.s)
			flip(t, r.mem, g.name, v.off+into, 4)
			r.s = mustOpen(t, r.cfg)
			if damaged := r.wrongOrDamaged(); damaged > 0 {
				t.Errorf("%d parts are damaged after the record was mended", damaged)
			}
		})
	}
}

// A damaged record that no kept checkpoint needs goes, and the damage with it.
func TestThinningDropsDamage(t *testing.T) {
	r := newThinRig(t, manualClock(), func(cfg *Config) { cfg.ScrubEvery = time.Minute })
	r.seconds(60)
	job, _, dropped := r.writesOfNextJob()
	if len(dropped) == 0 {
		t.Fatal("the next rewrite drops nothing")
	}
	v := dropped[len(dropped)/2]
	flip(t, r.mem, job.parts[v.part].name, v.off+frameHeaderBytes+77, 4)
	r.scrubWhole()
	if n := len(r.s.Damaged()); n != 1 {
		t.Fatalf("the scrub found %d places damaged, want 1", n)
	}
	if r.maintain().Rewrites == 0 {
		t.Fatal("nothing is thinned")
	}
	if found := r.s.Damaged(); len(found) > 0 {
		t.Errorf("what was dropped is still known as damaged: %v", found)
	}
	if damaged := r.wrongOrDamaged(); damaged > 0 {
		t.Errorf("%d parts of what was thinned are damaged", damaged)
	}
	r.scrubWhole()
	if found := r.s.Damaged(); len(found) > 0 {
		t.Errorf("the scrub finds damage in thinned segments: %v", found)
	}
}

func (r *thinRig) scrubWhole() {
	r.t.Helper()
	for pass := r.s.scrub.pass.Load(); r.s.scrub.pass.Load() == pass || !r.s.scrub.state.Done; r.clock.Advance(r.cfg.ScrubEvery / 4) {
		if err := r.s.scrubDue(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
	}
}

// wrongOrDamaged reads each listed checkpoint in parts of records and returns how
// many of them are refused as damaged. None may be wrong.
func (r *thinRig) wrongOrDamaged() (damaged int) {
	r.t.Helper()
	p := make([]byte, 8*SectorBytes)
	for _, c := range r.s.Checkpoints() {
		v, err := r.s.View(c.Position)
		if errors.Is(err, ErrCorrupt) { // the records are read to open it
			damaged += rigVolumeBytes / len(p)
			continue
		}
		if err != nil {
			r.t.Fatal(err)
		}
		for off := int64(0); off < rigVolumeBytes; off += int64(len(p)) {
			switch err := v.ReadAt(p, off); {
			case errors.Is(err, ErrCorrupt):
				damaged++
			case err != nil:
				r.t.Fatal(err)
			case !bytes.Equal(p, r.images[c.Position][off:off+int64(len(p))]):
				r.t.Fatalf("checkpoint %d has wrong bytes at %d", c.Number, off)
			}
		}
		if err := v.Close(); err != nil {
			r.t.Fatal(err)
		}
	}
	return damaged
}

// TestPartsOfRecordsInThinnedSegments are checked: the walk to a record crosses
// gaps between seqs, and damage to one fails nobody else.
func TestPartsOfRecordsInThinnedSegments(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(60)
	r.maintain()
	if damaged := r.wrongOrDamaged(); damaged > 0 {
		t.Fatalf("%d parts of an undamaged store are damaged", damaged)
	}
	thinned := r.s.segmentOfLocked(r.dropped().Position)
	heads, err := r.s.readHeads(t.Context(), &thinJob{parts: []pathPart{{segmentSnapshot: thinned.snapshot(), upTo: thinned.last}}}, 0, r.s.newThinPacer())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(heads, func(h frameHead) bool { return h.kind == KindWrite })
	flip(t, r.mem, thinned.name, heads[i].off+frameHeaderBytes+5, 1)
	if r.wrongOrDamaged() == 0 {
		t.Error("a damaged record of a thinned segment is given away")
	}
	if found := r.s.Damaged(); len(found) != 1 || found[0].File != thinned.name || found[0].Offset != heads[i].off {
		t.Errorf("known damage is %v, want the record at %d of %s", found, heads[i].off, thinned.name)
	}
	flip(t, r.mem, thinned.name, heads[i].off+frameHeaderBytes+5, 1)
}

// TestScrubBesideThinning: segments are replaced before and behind the place where
// the scrub is, and it comes to its end, also when the store is opened in between.
func TestScrubBesideThinning(t *testing.T) {
	r := newThinRig(t, manualClock(), func(cfg *Config) { cfg.ScrubEvery = MinScrubEvery })
	var before, behind int
	for round := range 40 {
		r.seconds(5)
		if err := r.s.scrubDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		at := r.s.scrub.state.Segment
		r.maintain()
		for _, g := range r.s.segments {
			switch {
			case g.thinned == 0 || r.s.scrub.state.Done:
			case g.id < at:
				before++
			default:
				behind++
			}
		}
		if round%9 == 8 {
			mustClose(t, r.s)
			r.s = mustOpen(t, r.cfg)
		}
	}
	if before == 0 || behind == 0 {
		t.Errorf("thinned segments were met %d times before the scrub and %d times behind it", before, behind)
	}
	if pass := r.s.scrub.state.Pass; pass < 3 {
		t.Errorf("the scrub is in pass %d", pass)
	}
	if found := r.s.Damaged(); len(found) > 0 {
		t.Errorf("known damage is %v", found)
	}
	r.checkListed()
}

// TestDestageBehindDamageInAThinnedSegment: the damaged record is overwritten
// further on, so that a longer batch needs nothing of it. It ends where a position
// can be opened.
func TestDestageBehindDamageInAThinnedSegment(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(60)
	r.maintain()
	horizon := r.s.Horizon()
	thinned := r.s.segmentOfLocked(r.dropped().Position)
	flip(t, r.mem, thinned.name, blockBytes+frameHeaderBytes+5, 1)
	r.s.SetRetention(Retention{JournalBytes: 2 * MinSegmentBytes, History: r.cfg.History})
	for range 3 {
		if err := r.s.Maintain(t.Context()); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	}
	if r.s.Horizon() == horizon {
		t.Fatal("destage has not come past the damage")
	}
	v, err := r.s.View(r.s.Horizon())
	if err != nil {
		t.Fatalf("the horizon %s cannot be opened: %v", r.s.Horizon(), err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if damaged := r.wrongOrDamaged(); damaged > 0 {
		t.Errorf("%d parts of what is left are damaged", damaged)
	}
	if found := r.s.Damaged(); len(found) > 0 {
		t.Errorf("what was dropped is still known as damaged: %v", found)
	}
}

// A journal's directory is removed with the thinned segments in it.
func TestRemoveJournalThatWasThinned(t *testing.T) {
	r := newThinRig(t, manualClock(), func(cfg *Config) { cfg.JournalDir = worldJournalDir })
	r.seconds(60)
	r.maintain()
	mustClose(t, r.s)
	if !slices.ContainsFunc(namesIn(t, r.mem, worldJournalDir), isRewritten) {
		t.Fatal("the journal has no thinned segment")
	}
	if err := RemoveJournal(r.mem, worldJournalDir, testVolume); err != nil {
		t.Error(err)
	}
	if names := namesIn(t, r.mem, path.Dir(worldJournalDir)); slices.Contains(names, path.Base(worldJournalDir)) {
		t.Errorf("the journal's directory is still among %v", names)
	}
}
