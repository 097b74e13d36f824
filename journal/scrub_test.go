package journal

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// scrubWhole goes on until a pass is over.
func scrubWhole(t *testing.T, w *world) {
	t.Helper()
	pass := w.s.scrub.pass.Load()
	for range 1000 {
		if err := w.s.scrubDue(context.Background()); err != nil {
			t.Fatal(err)
		}
		if w.s.scrub.state.Done && w.s.scrub.state.Pass > pass {
			return
		}
		w.clock.Advance(w.cfg.ScrubEvery / 4)
	}
	t.Fatalf("the scrub does not come to an end: %+v", w.s.scrub.state)
}

// scrubbedWorld is a store with records in the base, in sealed segments and in one
// that is not.
func scrubbedWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := newWorld(t, seed, func(cfg *Config) { cfg.ScrubEvery = 24 * time.Hour })
	for len(w.s.segments) < 4 {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	destageAll(t, w.s)
	for len(w.s.segments) < 4 {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.s.sealPending(); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestScrubEndsWhenTheJournalShrinks: a pass that has read more than there is by
// now goes on to its end.
func TestScrubEndsWhenTheJournalShrinks(t *testing.T) {
	w := scrubbedWorld(t, 2)
	defer mustClose(t, w.s)
	if err := w.s.scrubDue(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.s.scrub.state.Bytes = w.s.scrubBytes()
	destageAll(t, w.s)
	scrubWhole(t, w)
}

// TestScrubFindsDamage in records, footers and the base, whether or not anybody
// reads them, tells of each once, and forgets what is not there any more.
func TestScrubFindsDamage(t *testing.T) {
	w := scrubbedWorld(t, 1)
	scrubWhole(t, w)
	if got := w.s.Damaged(); len(got) > 0 {
		t.Fatalf("an undamaged store has damage: %v", got)
	}
	var sealed []*segment
	for _, g := range w.s.segments {
		if g.sealed {
			sealed = append(sealed, g)
		}
	}
	if len(sealed) < 2 {
		t.Fatalf("%d sealed segments", len(sealed))
	}
	places := []struct {
		file string
		off  int64
	}{
		{baseFile, 512*11 + 5},
		{baseSumsFile, sumOffset(512*60) + 1},
		{sealed[0].name, blockBytes + frameHeaderBytes + 9},
		{sealed[1].name, sealed[1].bytes - blockBytes + 40},
	}
	for _, at := range places {
		flip(t, w.mem, at.file, at.off, 2)
	}
	scrubWhole(t, w)
	found := w.s.Damaged()
	if len(found) != len(places) || w.s.Stats().Damaged != len(places) {
		t.Fatalf("%d places are damaged, the scrub found %v", len(places), found)
	}
	for _, at := range places {
		file := strings.Replace(at.file, baseSumsFile, baseFile, 1)
		if !slices.ContainsFunc(found, func(c CorruptError) bool { return c.File == file }) {
			t.Errorf("the scrub found no damage in %s: %v", file, found)
		}
	}
	for _, at := range places {
		flip(t, w.mem, at.file, at.off, 2)
	}
	scrubWhole(t, w)
	if got := w.s.Damaged(); len(got) > 0 {
		t.Fatalf("after all was mended the store has damage: %v", got)
	}
	if st := w.s.ScrubStats(); st.Progress != 1 || st.LastFull.IsZero() || st.Bytes == 0 || st.UnsummedBase != 0 {
		t.Errorf("figures of the scrub are %+v", st)
	}
	mustClose(t, w.s)
}

// TestScrubDropsDamagedRuns, which are made again.
func TestScrubDropsDamagedRuns(t *testing.T) {
	w := newWorld(t, 2, func(cfg *Config) { smallIndex(cfg); cfg.ScrubEvery = time.Hour })
	for len(w.s.segments) < 8 {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.s.sealPending(), w.s.buildRuns(context.Background())); err != nil {
		t.Fatal(err)
	}
	before := w.runs(t)
	if len(before) == 0 {
		t.Fatal("no index runs were made")
	}
	for _, name := range before {
		flip(t, w.mem, journalDir+"/"+name, 2*blockBytes-9, 1)
	}
	scrubWhole(t, w)
	if after := w.runs(t); len(after) > 0 {
		t.Fatalf("damaged runs %v are still there", after)
	}
	if err := w.s.buildRuns(context.Background()); err != nil {
		t.Fatal(err)
	}
	if after := w.runs(t); !slices.Equal(after, before) {
		t.Fatalf("runs %v were made again, want %v", after, before)
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	w.m.check(t, w.s, false)
	mustClose(t, w.s)
}

// TestScrubIsSpreadAndGoesOn: no more is read than is due, and a store that is
// opened again goes on where it was.
func TestScrubIsSpreadAndGoesOn(t *testing.T) {
	w := scrubbedWorld(t, 3)
	turn := func() ScrubStats {
		t.Helper()
		if err := w.s.scrubDue(context.Background()); err != nil {
			t.Fatal(err)
		}
		return w.s.ScrubStats()
	}
	if st := turn(); st.Bytes != 0 {
		t.Fatalf("%d bytes were read at once", st.Bytes)
	}
	w.clock.Advance(w.cfg.ScrubEvery / 10)
	st := turn()
	if st.Bytes == 0 || st.Progress < 0.1 || st.Progress > 0.6 {
		t.Fatalf("after a tenth of the period: %+v", st)
	}
	if again := turn(); again.Bytes != st.Bytes {
		t.Fatalf("%d bytes more were read before they were due", again.Bytes-st.Bytes)
	}
	segment := w.s.scrub.state.Segment
	if segment == 0 {
		t.Fatal("no segment was read")
	}
	if err := w.reopen(); err != nil {
		t.Fatal(err)
	}
	if got := w.s.scrub.state; got.Pass != 1 || got.Segment != segment || got.Bytes != int64(st.Bytes) {
		t.Fatalf("opened again, the scrub is at %+v, want segment %d after %d bytes", got, segment, st.Bytes)
	}
	scrubWholeFrom(t, w)
	if got := turn().Bytes; got >= uint64(w.s.scrubBytes()) {
		t.Fatalf("after it was opened again, %d bytes of %d were read for the rest of the pass", got, w.s.scrubBytes())
	}
	mustClose(t, w.s)
}

// scrubWholeFrom goes on until the pass under way is over.
func scrubWholeFrom(t *testing.T, w *world) {
	t.Helper()
	for !w.s.scrub.state.Done {
		w.clock.Advance(w.cfg.ScrubEvery / 4)
		if err := w.s.scrubDue(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOldBaseIsGivenChecksums, whenever that is cut short, and they are right.
func TestOldBaseIsGivenChecksums(t *testing.T) {
	w := destagedWorld(t, 7)
	mustClose(t, w.s)
	downgrade(t, w)
	for k := int64(1); ; k++ {
		chance := rand.New(rand.NewPCG(uint64(k), 4))
		branch := &world{t: t, cfg: w.cfg, clock: w.clock, m: w.m.clone()}
		branch.mount(w.mem.KillClone())
		branch.fault.CrashTornAt(k, chance)
		err := branch.open()
		if err == nil {
			if got := branch.s.ScrubStats().UnsummedBase; got != worldVolumeBytes {
				t.Fatalf("%d bytes of an old base have no checksums, want all", got)
			}
			_, err = branch.s.Write(make([]byte, SectorBytes), 0)
			if err == nil {
				err = branch.s.sumBase(context.Background())
			}
		}
		if err != nil && !errors.Is(err, vfs.ErrCrashed) {
			t.Fatalf("operation %d: %v", k, err)
		}
		branch.mount(branch.mem.Crash(chance))
		branch.checkUndamaged()
		if err := branch.open(); err != nil {
			t.Fatalf("operation %d: open after the crash: %v", k, err)
		}
		if err := branch.s.sumBase(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := branch.s.ScrubStats().UnsummedBase; got != 0 {
			t.Fatalf("%d bytes of the base have no checksums", got)
		}
		image := w.m.live()
		if branch.s.Tip().Seq > w.m.tip.Seq {
			clear(image[:SectorBytes])
		}
		if failed := sectorsThatFail(t, branch.s, image, 0, worldVolumeBytes); len(failed) > 0 {
			t.Fatalf("operation %d: sectors at %d fail", k, failed)
		}
		mustClose(t, branch.s)
		branch.checkUndamaged()
		if err == nil {
			return
		}
	}
}
