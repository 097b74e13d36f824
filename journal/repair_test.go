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
	"time"

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

// mend asks and answers until there is nothing to ask, and returns the questions.
// change may change an answer.
func mend(t *testing.T, s, peer *Store, change func(RepairQuestion, *RepairAnswer)) (asked []RepairQuestion, refused error) {
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
			refused = err
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the store asks for ever")
	return nil, nil
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

// TestRepairOfSectorAndItsChecksum: nothing proves an answer then, and the damage
// stays.
func TestRepairOfSectorAndItsChecksum(t *testing.T) {
	w := scrubbedWorld(t, 3)
	defer mustClose(t, w.s)
	peer := peerOf(t, w)
	flip(t, w.mem, baseFile, 4096, 1)
	flip(t, w.mem, baseSumsFile, sumOffset(4096), 1)
	scrubWhole(t, w)
	if _, refused := mend(t, w.s, peer, nil); refused == nil {
		t.Fatal("an answer that nothing proves was taken")
	}
	if st := w.s.RepairStats(); len(w.s.Damaged()) != 1 || st.Unrepairable != 1 || st.Refused == 0 {
		t.Fatalf("%+v, %+v", w.s.Damaged(), st)
	}
}

// TestRepairByAnotherBase: the peer's base is past that of the store, or behind it.
// Sectors that changed in between are not taken, all others are.
func TestRepairByAnotherBase(t *testing.T) {
	for name, ahead := range map[string]bool{"the peer's base is ahead": true, "it is behind": false} {
		t.Run(name, func(t *testing.T) {
			w := scrubbedWorld(t, 4)
			peer := peerOf(t, w)
			if ahead {
				destageAll(t, peer)
			} else {
				destageAll(t, w.s)
			}
			for off := int64(3); off < worldVolumeBytes; off += SectorBytes {
				flip(t, w.mem, baseFile, off, 1)
			}
			scrubWhole(t, w)
			before := len(sectorsThatFail(t, w.s, w.m.image(), 0, worldVolumeBytes))
			mend(t, w.s, peer, nil)
			left := len(w.s.Damaged())
			if !ahead && (before == 0 || left > 0) {
				t.Fatalf("%d sectors failed, %d places are left: %+v", before, left, w.s.Damaged())
			}
			if ahead && left == 0 {
				t.Fatal("sectors that changed since were taken")
			}
			// What the live volume needs of the base has not changed since it.
			if failed := sectorsThatFail(t, w.s, w.m.image(), 0, worldVolumeBytes); len(failed) > 0 {
				t.Fatalf("sectors at %d fail", failed)
			}
			if ahead {
				destageAll(t, w.s)
			}
			checkMended(t, w)
		})
	}
}

// TestWrongAnswersAreRefused, and change nothing.
func TestWrongAnswersAreRefused(t *testing.T) {
	w := scrubbedWorld(t, 5)
	peer := peerOf(t, w)
	g := sealedSegments(w.s)[0]
	frames := framesOf(t, g)
	var other []byte
	for _, f := range frames[3:] {
		if f.Kind == KindWrite && len(f.Payload) > SectorBytes {
			other = f.AppendEncoded(nil, testVolume)
			break
		}
	}
	at := frames[2]
	altered := func(change func(r *Record)) []byte {
		r := at.Record
		r.Payload = bytes.Clone(fileBytes(t, peer.cfg.FS.(*vfs.Mem), g.name)[at.payloadOffset():][:len(at.Payload)])
		change(&r)
		r.PayloadCRC = PayloadChecksum(r.Payload)
		return r.AppendEncoded(nil, testVolume)
	}
	records := map[string]func(*RepairAnswer){
		"nothing":      func(a *RepairAnswer) { a.Data = nil },
		"truncated":    func(a *RepairAnswer) { a.Data = a.Data[:len(a.Data)-1] },
		"header only":  func(a *RepairAnswer) { a.Data = a.Data[:RecordHeaderBytes] },
		"more":         func(a *RepairAnswer) { a.Data = append(a.Data, 0) },
		"flipped":      func(a *RepairAnswer) { a.Data[len(a.Data)-1] ^= 1 },
		"another seq":  func(a *RepairAnswer) { a.Data = other },
		"another line": func(a *RepairAnswer) { a.Data = altered(func(r *Record) { r.Position.Timeline++ }) },
		"other data":   func(a *RepairAnswer) { a.Data = altered(func(r *Record) { r.Payload[0] ^= 1 }) },
		"another place": func(a *RepairAnswer) {
			a.Data = altered(func(r *Record) { r.Offset = (r.Offset + SectorBytes) % (worldVolumeBytes / 2) })
		},
		"shorter": func(a *RepairAnswer) {
			a.Data = altered(func(r *Record) { r.Kind, r.Payload = KindDiscard, nil })
		},
		"another volume": func(a *RepairAnswer) {
			r, _, err := DecodeRecord(a.Data, testVolume)
			if err != nil {
				t.Fatal(err)
			}
			a.Data = r.AppendEncoded(nil, goldenVolume)
		},
	}
	refuse := func(name string, file string, change func(*RepairAnswer)) {
		t.Helper()
		scrubWhole(t, w)
		before := fileBytes(t, w.mem, file)
		w.s.PeerAnswers(false)
		w.s.PeerAnswers(true)
		asked, refused := mend(t, w.s, peer, func(_ RepairQuestion, a *RepairAnswer) { change(a) })
		if len(asked) != 1 || refused == nil || !bytes.Equal(before, fileBytes(t, w.mem, file)) || len(w.s.Damaged()) != 1 {
			t.Fatalf("%s: asked %v, refused: %v", name, asked, refused)
		}
	}
	for _, damage := range []int64{at.payloadOffset() + 1, at.off + 20} {
		flip(t, w.mem, g.name, damage, 1)
		for name, change := range records {
			refuse(name, g.name, change)
		}
		w.s.PeerAnswers(false)
		w.s.PeerAnswers(true)
		mend(t, w.s, peer, nil)
	}
	flip(t, w.mem, baseFile, 2*SectorBytes+7, 1)
	for name, change := range map[string]func(*RepairAnswer){
		"nothing":             func(a *RepairAnswer) { a.Data = nil },
		"truncated":           func(a *RepairAnswer) { a.Data = a.Data[:len(a.Data)-1] },
		"more":                func(a *RepairAnswer) { a.Data = append(a.Data, 0) },
		"flipped":             func(a *RepairAnswer) { a.Data[0] ^= 1 },
		"zeroes":              func(a *RepairAnswer) { clear(a.Data) },
		"an unknown position": func(a *RepairAnswer) { a.At.Timeline++ },
		"before the base":     func(a *RepairAnswer) { a.At.Seq-- },
	} {
		refuse(name, baseFile, change)
	}
	w.s.PeerAnswers(false)
	w.s.PeerAnswers(true)
	mend(t, w.s, peer, nil)
	checkMended(t, w)
}

// TestRepairWithoutAnswer: each thing that a peer may lack is told, and the damage
// stays listed, is not asked about again at once, and is later.
func TestRepairWithoutAnswer(t *testing.T) {
	w := scrubbedWorld(t, 6)
	defer mustClose(t, w.s)
	peer := peerOf(t, w)
	destageAll(t, peer)
	empty := newWorld(t, 60, nil)
	defer mustClose(t, empty.s)
	g := sealedSegments(w.s)[0]
	at := framesOf(t, g)[4]
	flip(t, w.mem, g.name, at.off+30, 1)
	scrubWhole(t, w)
	for want, other := range map[RepairLack]*Store{LackHorizon: peer, LackUnknown: empty.s, LackDamaged: w.s} {
		w.s.PeerAnswers(false)
		w.s.PeerAnswers(true)
		var lacks []RepairLack
		asked, _ := mend(t, w.s, other, func(_ RepairQuestion, a *RepairAnswer) { lacks = append(lacks, a.Lacks) })
		if len(asked) != 1 || asked[0].Record != at.Position || lacks[0] != want {
			t.Fatalf("asked %v, the answer lacks %v, want %v", asked, lacks, want)
		}
		if st := w.s.RepairStats(); len(w.s.Damaged()) != 1 || st.Unrepairable != 1 {
			t.Fatalf("%+v, %+v", w.s.Damaged(), st)
		}
		if asked, _ := mend(t, w.s, other, nil); len(asked) > 0 {
			t.Fatalf("asked again: %v", asked)
		}
	}
	w.clock.Advance(repairRetry)
	if asked, _ := mend(t, w.s, peer, nil); len(asked) != 1 {
		t.Fatalf("later asked %v", asked)
	}
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

// TestRepairOfWhatIsBeingWritten: a payload in the segment that is appended to is
// mended, its headers wait until it is sealed.
func TestRepairOfWhatIsBeingWritten(t *testing.T) {
	w := newWorld(t, 8, func(cfg *Config) { cfg.ScrubEvery = 24 * time.Hour })
	for range 6 {
		if err := w.write(); err != nil {
			t.Fatal(err)
		}
	}
	peer := peerOf(t, w)
	g := w.s.active
	frames := framesOf(t, g)
	flip(t, w.mem, g.name, frames[5].payloadOffset(), 1)
	if err := w.s.ReadAt(make([]byte, SectorBytes), frames[5].Offset); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	mend(t, w.s, peer, nil)
	if got := w.s.Damaged(); len(got) > 0 {
		t.Fatalf("still damaged: %+v", got)
	}
	flip(t, w.mem, g.name, frames[5].off, 1)
	if err := w.s.ReadAt(make([]byte, SectorBytes), frames[5].Offset); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if asked, _ := mend(t, w.s, peer, nil); len(asked) > 0 || len(w.s.Damaged()) != 1 {
		t.Fatalf("asked %v, damaged %+v", asked, w.s.Damaged())
	}
	w.s.appendMu.Lock()
	w.s.retireActive()
	w.s.appendMu.Unlock()
	if err := w.s.sealPending(); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(repairRetry)
	mend(t, w.s, peer, nil)
	checkMended(t, w)
}

// TestReadWaitsForItsRepair, once, and not when nobody answers or could help.
func TestReadWaitsForItsRepair(t *testing.T) {
	w := scrubbedWorld(t, 9)
	defer mustClose(t, w.s)
	peer := peerOf(t, w)
	destageAll(t, w.s)
	flip(t, w.mem, baseFile, 0, 1)
	p := make([]byte, SectorBytes)
	if err := w.s.ReadAt(p, 0); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("without a peer: %v", err)
	}
	w.s.PeerAnswers(true)
	read := func() <-chan error {
		done := make(chan error, 1)
		go func() { done <- w.s.ReadAt(p, 0) }()
		w.clock.WaitForTimers(1)
		return done
	}
	done := read()
	w.clock.Advance(repairWait)
	if err := <-done; !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a peer that takes too long: %v", err)
	}
	done = read()
	w.s.PeerAnswers(false)
	if err := <-done; !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a peer that goes away: %v", err)
	}
	w.s.PeerAnswers(true)
	done = read()
	mend(t, w.s, peer, func(_ RepairQuestion, a *RepairAnswer) { *a = RepairAnswer{Lacks: LackHorizon} })
	if err := <-done; !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a peer that lacks it: %v", err)
	}
	if err := w.s.ReadAt(p, 0); !errors.Is(err, ErrCorrupt) { // at once
		t.Fatalf("after a peer that lacks it: %v", err)
	}
	w.s.PeerAnswers(false)
	w.s.PeerAnswers(true)
	done = read()
	mend(t, w.s, peer, nil)
	if err := <-done; err != nil || !bytes.Equal(p, w.m.image()[:SectorBytes]) {
		t.Fatalf("a peer that has it: %v", err)
	}
}

// TestRepairOfWhatCannotBeRead: the disk fails reads of places until they are written.
func TestRepairOfWhatCannotBeRead(t *testing.T) {
	w := scrubbedWorld(t, 10)
	peer := peerOf(t, w)
	mustClose(t, w.s)
	bad := &badSectors{FS: w.fault, bad: map[string]map[int64]bool{}}
	w.cfg.FS = bad
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	g := sealedSegments(w.s)[0]
	at := framesOf(t, g)[2]
	bad.lose(baseFile, 3*SectorBytes)
	bad.lose(path.Base(g.name), at.payloadOffset()&^(SectorBytes-1))
	w.s.scrub.state.Done = true
	w.clock.Advance(w.cfg.ScrubEvery)
	scrubWhole(t, w)
	if len(w.s.Damaged()) < 2 {
		t.Fatalf("damaged: %+v", w.s.Damaged())
	}
	mend(t, w.s, peer, nil)
	checkMended(t, w)
}

// badSectors is a file system of which sectors cannot be read before they are
// written.
type badSectors struct {
	vfs.FS
	bad map[string]map[int64]bool
}

func (b *badSectors) lose(name string, off int64) {
	if b.bad[name] == nil {
		b.bad[name] = map[int64]bool{}
	}
	b.bad[name][off] = true
}

func (b *badSectors) Open(name string) (vfs.File, error) {
	f, err := b.FS.Open(name)
	if err == nil {
		f = &badFile{f, b, path.Base(name)}
	}
	return f, err
}

type badFile struct {
	vfs.File
	of   *badSectors
	name string
}

func (f *badFile) ReadAt(p []byte, off int64) (int, error) {
	for at := range f.of.bad[f.name] {
		if at < off+int64(len(p)) && at+SectorBytes > off {
			return 0, errDisk
		}
	}
	return f.File.ReadAt(p, off)
}

func (f *badFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	for at := range f.of.bad[f.name] {
		if at+SectorBytes > off && at < off+int64(n) {
			delete(f.of.bad[f.name], at)
		}
	}
	return n, err
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

// TestRepairInAReplicatedPair: random changes go from one store to another, which
// destages by itself; bytes change on either side; each is repaired from the other
// and then reads, at each position that it has, as its model says.
func TestRepairInAReplicatedPair(t *testing.T) {
	for _, seed := range rounds(t) {
		w := newReplicaWorld(t, seed)
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
