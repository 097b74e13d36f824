package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// peerOf opens another store with the same records: a copy of the disk as it is
// now, with whatever is going to be damaged still whole.
func peerOf(t *testing.T, w *world) *Store {
	t.Helper()
	return copyOf(t, w.mem, w.cfg)
}

func copyOf(t *testing.T, mem *vfs.Mem, cfg Config) *Store {
	t.Helper()
	cfg.FS = mem.KillClone()
	peer := mustOpen(t, cfg)
	t.Cleanup(func() { mustClose(t, peer) })
	return peer
}

// mend asks and answers until there is nothing to ask, and returns the questions,
// and how many answers were refused. change may change an answer.
func mend(t *testing.T, s, peer *Store, change func(RepairQuestion, *RepairAnswer)) (asked []RepairQuestion, refused int) {
	t.Helper()
	ctx := context.Background()
	for range 1000 {
		q, ok, err := s.NextRepair(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return asked, refused
		}
		asked = append(asked, q)
		a, err := peer.AnswerRepair(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(q, &a)
		}
		if err := s.TakeRepair(ctx, q, a); errors.Is(err, ErrCorrupt) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the store asks for ever")
	return nil, 0
}

// fileBytes is what a file of a store holds.
func fileBytes(t *testing.T, mem *vfs.Mem, name string) []byte {
	t.Helper()
	f, err := mem.OpenReadOnly(path.Join(worldDir, name))
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, size)
	if err := errors.Join(readFull(f, p, 0), f.Close()); err != nil {
		t.Fatal(err)
	}
	return p
}

// sealedSegments are those of a store, by their ids.
func sealedSegments(s *Store) (sealed []*segment) {
	for _, g := range s.segments {
		if g.sealed {
			sealed = append(sealed, g)
		}
	}
	slices.SortFunc(sealed, func(a, b *segment) int { return int(a.id) - int(b.id) })
	return sealed
}

func framesOf(t *testing.T, g *segment) (frames []frame) {
	t.Helper()
	err := walkFrames(g, g.end, func(f *frame) error {
		frames = append(frames, *f)
		return nil
	}, func(err error) error { return err })
	if err != nil {
		t.Fatal(err)
	}
	return frames
}

// checkMended checks that a store is whole, on disk too, and reads as its model says.
// The store is closed then.
func checkMended(t *testing.T, w *world) {
	t.Helper()
	if got := w.s.Damaged(); len(got) > 0 {
		t.Fatalf("still damaged: %+v", got)
	}
	scrubWhole(t, w)
	if got := w.s.Damaged(); len(got) > 0 {
		t.Fatalf("the scrub finds after the repair: %+v", got)
	}
	if failed := sectorsThatFail(t, w.s, w.m.image(), 0, worldVolumeBytes); len(failed) > 0 {
		t.Fatalf("sectors at %d fail", failed)
	}
	disk := w.mem.CrashWith(nil, vfs.CrashOptions{LoseAll: true})
	_ = w.s.Close() // its disk is gone
	report, err := Verify(context.Background(), Config{FS: disk, Dir: worldDir})
	if err != nil || !report.OK() {
		t.Fatalf("Verify of what is durable: %+v, %v", report.Damage, err)
	}
}

// TestEveryPartOfASegmentIsRepaired: a changed byte anywhere in a sealed segment is
// mended, and the file is what it was, but for what the store cannot know: the time
// in the segment's header, and a durable mark that is lost.
func TestEveryPartOfASegmentIsRepaired(t *testing.T) {
	w := scrubbedWorld(t, 1)
	peer := peerOf(t, w)
	g := sealedSegments(w.s)[1]
	frames := framesOf(t, g)
	footer, err := g.readFooter()
	if err != nil {
		t.Fatal(err)
	}
	var places []int64
	for _, f := range []frame{frames[0], frames[len(frames)/2], frames[len(frames)-1]} {
		for off := f.off; off < f.payloadOffset(); off++ {
			places = append(places, off)
		}
		places = append(places, f.payloadOffset(), f.payloadOffset()+int64(len(f.Payload))/2, f.payloadOffset()+int64(len(f.Payload))-1)
	}
	for _, off := range []int64{0, 9, 13, 20, 33, 41, 49, 57, 65, 72, 4000} {
		places = append(places, off, g.bytes-blockBytes+off)
	}
	places = append(places, footer.offset(), footer.offset()+5)
	before := fileBytes(t, w.mem, g.name)
	for _, off := range places {
		flip(t, w.mem, g.name, off, 0x10)
		scrubWhole(t, w)
		if len(w.s.Damaged()) == 0 {
			t.Fatalf("a flip at %d was not found", off)
		}
		mend(t, w.s, peer, nil)
		if got := w.s.Damaged(); len(got) > 0 {
			t.Fatalf("a flip at %d was not mended: %+v", off, got)
		}
		after := fileBytes(t, w.mem, g.name)
		for i := range after {
			if after[i] != before[i] && !mayDiffer(frames, int64(i)) {
				t.Fatalf("a flip at %d was mended to another byte at %d", off, i)
			}
		}
		before = after
	}
	if n := w.s.RepairStats().Repaired; n != uint64(len(places)) {
		t.Fatalf("%d repairs are counted, want %d", n, len(places))
	}
	checkMended(t, w)
}

// mayDiffer tells of a byte of a segment whether the store cannot know what it was.
func mayDiffer(frames []frame, at int64) bool {
	if at >= 8 && at < 12 || at >= 64 && at < 72 { // header's checksum and time
		return true
	}
	return slices.ContainsFunc(frames, func(f frame) bool { return at >= f.off+4 && at < f.off+frameLocalBytes })
}

// TestRepairOfManyRecords: whole stretches of a segment, with the headers in them.
func TestRepairOfManyRecords(t *testing.T) {
	w := scrubbedWorld(t, 2)
	peer := peerOf(t, w)
	for _, g := range sealedSegments(w.s) {
		frames := framesOf(t, g)
		for _, n := range [][2]int{{0, 3}, {5, 6}, {len(frames) - 4, len(frames)}} {
			from, to := frames[n[0]].off, frames[n[1]-1].end()
			if err := w.mem.Corrupt(path.Join(worldDir, g.name), from, to-from); err != nil {
				t.Fatal(err)
			}
		}
	}
	scrubWhole(t, w)
	mend(t, w.s, peer, nil)
	checkMended(t, w)
}

// TestRepairOfTheBase: every changed byte of sectors and of their checksums.
func TestRepairOfTheBase(t *testing.T) {
	w := scrubbedWorld(t, 3)
	peer := peerOf(t, w)
	base, sums := fileBytes(t, w.mem, baseFile), fileBytes(t, w.mem, baseSumsFile)
	check := func(what string) {
		t.Helper()
		scrubWhole(t, w)
		mend(t, w.s, peer, nil)
		if got := w.s.Damaged(); len(got) > 0 {
			t.Fatalf("%s: not mended: %+v", what, got)
		}
		if !bytes.Equal(fileBytes(t, w.mem, baseFile), base) || !bytes.Equal(fileBytes(t, w.mem, baseSumsFile), sums) {
			t.Fatalf("%s: mended to something else", what)
		}
	}
	for off := int64(1); off < worldVolumeBytes; off += 2*SectorBytes + 77 {
		flip(t, w.mem, baseFile, off, 1)
		check(fmt.Sprintf("sector at %d", off))
	}
	for off := int64(0); off < int64(len(sums)); off += 7 {
		flip(t, w.mem, baseSumsFile, off, 4)
		check(fmt.Sprintf("checksum at %d", off))
	}
	for off := int64(3); off < worldVolumeBytes; off += SectorBytes {
		flip(t, w.mem, baseFile, off, 1)
	}
	check("all sectors")
	checkMended(t, w)
}

// TestRepairAtEveryCrash: at each operation of a repair the store opens, if it could
// before, and the repair can be made again.
func TestRepairAtEveryCrash(t *testing.T) {
	damage := func(w *world) {
		g := sealedSegments(w.s)[0]
		frames := framesOf(t, g)
		flip(t, w.mem, g.name, frames[1].off+5, 1)
		flip(t, w.mem, g.name, frames[3].off+20, 1)
		flip(t, w.mem, g.name, frames[5].payloadOffset()+9, 1)
		for off := int64(0); off < 8*SectorBytes; off += SectorBytes {
			flip(t, w.mem, baseFile, off, 1)
		}
		flip(t, w.mem, baseSumsFile, sumOffset(20*SectorBytes), 1)
		scrubWhole(t, w)
	}
	total := int64(1)
	for k := int64(0); k <= total; k++ {
		w := scrubbedWorld(t, 7)
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		peer := peerOf(t, w)
		damage(w)
		chance := rand.New(rand.NewPCG(7, uint64(k)))
		begun := w.fault.Count()
		if k > 0 {
			w.fault.CrashTornAt(begun+k, chance)
		}
		ctx := context.Background()
		for {
			q, ok, err := w.s.NextRepair(ctx)
			if err != nil || !ok {
				break
			}
			a, err := peer.AnswerRepair(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			if w.s.TakeRepair(ctx, q, a) != nil {
				break
			}
		}
		if k == 0 {
			total = w.fault.Count() - begun
			checkMended(t, w)
			continue
		}
		_ = w.s.Close()
		w.mount(w.mem.Crash(chance))
		if err := w.open(); err != nil {
			t.Fatalf("crash at %d: %v", k, err)
		}
		scrubWhole(t, w)
		mend(t, w.s, peer, nil)
		checkMended(t, w)
	}
	if total < 10 {
		t.Fatalf("a repair has %d operations", total)
	}
}

// TestRepairOfThinnedHistory: records with gaps between them.
func TestRepairOfThinnedHistory(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(60)
	r.maintain()
	peer := copyOf(t, r.mem, r.cfg)
	thinned := sealedSegments(r.s)
	thinned = slices.DeleteFunc(thinned, func(g *segment) bool { return g.thinned == 0 })
	if len(thinned) == 0 {
		t.Fatal("nothing was thinned")
	}
	g := thinned[0]
	frames := framesOf(t, g)
	damage := func(f *frame, off int64) {
		flip(t, r.mem, g.name, off, 1)
		_ = r.s.noteDamage(&CorruptError{File: g.name, Offset: f.off})
		mend(t, r.s, peer, nil)
	}
	for i := range frames {
		f := &frames[i]
		places := []int64{f.off + frameLocalBytes + 16, f.off + frameLocalBytes + 32}
		if len(f.Payload) > 0 {
			places = append(places, f.payloadOffset())
		}
		for _, off := range places {
			damage(f, off)
			if got := r.s.Damaged(); len(got) > 0 {
				t.Fatalf("a flip at %d of the frame of %s: %+v", off-f.off, f.Position, got)
			}
		}
	}
	// The seq is lost, and nothing tells which of those between its neighbours it was.
	damage(&frames[1], frames[1].off+frameLocalBytes+24)
	if got := r.s.RepairStats().Unrepairable; got != 1 {
		t.Fatalf("%d places cannot be repaired", got)
	}
}
