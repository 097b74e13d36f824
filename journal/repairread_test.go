package journal

import (
	"bytes"
	"context"
	"errors"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

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

// TestMaintenanceMeetsWhatCannotBeRead: a record that the disk does not give keeps destage
// from going on, as a damaged one does, and nothing else from being done; and it is mended.
func TestMaintenanceMeetsWhatCannotBeRead(t *testing.T) {
	for name, lose := range map[string]func(g *segment, at *frame) int64{
		"payload": func(_ *segment, at *frame) int64 { return at.payloadOffset() },
		"footer":  func(g *segment, _ *frame) int64 { return g.bytes - blockBytes },
	} {
		t.Run(name, func(t *testing.T) {
			w := scrubbedWorld(t, 10)
			peer := peerOf(t, w)
			mustClose(t, w.s)
			bad := &badSectors{FS: w.fault, bad: map[string]map[int64]bool{}}
			w.cfg.FS, w.cfg.JournalBytes = bad, MinSegmentBytes
			if err := w.open(); err != nil {
				t.Fatal(err)
			}
			g := sealedSegments(w.s)[0]
			at := framesOf(t, g)[2]
			bad.lose(path.Base(g.name), lose(g, &at)&^(SectorBytes-1))
			ctx, stop := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- w.s.Run(ctx) }()
			select {
			case <-w.s.RepairWanted():
			case err := <-ran:
				t.Fatalf("maintenance ended: %v", err)
			}
			stop()
			if err := <-ran; err != nil {
				t.Fatal(err)
			}
			if err := w.s.Maintain(t.Context()); !errors.Is(err, ErrCorrupt) || !errors.Is(err, errDisk) {
				t.Errorf("destage of what cannot be read: %v, want ErrCorrupt and the cause", err)
			}
			mend(t, w.s, peer, nil)
			if err := w.s.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
			checkMended(t, w)
		})
	}
}

// TestReadWaitsForWhatCannotBeRead, of the base and of the journal, live and in a view: it is
// damage to whoever can help.
func TestReadWaitsForWhatCannotBeRead(t *testing.T) {
	for _, of := range []string{"base", "journal"} {
		t.Run(of, func(t *testing.T) {
			w := scrubbedWorld(t, 10)
			peer := peerOf(t, w)
			mustClose(t, w.s)
			bad := &badSectors{FS: w.fault, bad: map[string]map[int64]bool{}}
			w.cfg.FS = bad
			if err := w.open(); err != nil {
				t.Fatal(err)
			}
			defer func() { mustClose(t, w.s) }()
			if of == "base" {
				destageAll(t, w.s)
			}
			image := w.m.image()
			lose := func() (off int64) {
				if of == "base" {
					bad.lose(baseFile, 0)
					return 0
				}
				off, name, at := aLivePayload(t, w.s)
				bad.lose(path.Base(name), at&^(SectorBytes-1))
				return off
			}
			view, err := w.s.View(w.s.Tip())
			if err != nil {
				t.Fatal(err)
			}
			defer view.Close()
			for _, read := range []func([]byte, int64) error{w.s.ReadAt, view.ReadAt} {
				p, off := make([]byte, SectorBytes), lose()
				if err := read(p, off); !errors.Is(err, errDisk) || !errors.Is(err, ErrCorrupt) {
					t.Fatalf("without a peer: %v, want ErrCorrupt and the cause", err)
				}
				w.s.PeerAnswers(true)
				done := make(chan error, 1)
				go func() { done <- read(p, off) }()
				w.clock.WaitForTimers(1)
				mend(t, w.s, peer, nil)
				if err := <-done; err != nil || !bytes.Equal(p, image[off:off+SectorBytes]) {
					t.Fatalf("a peer that has it: %v", err)
				}
				w.s.PeerAnswers(false)
			}
		})
	}
}

// aLivePayload finds a write of a sealed segment that the volume shows: where it is in the
// volume, and in the journal.
func aLivePayload(t *testing.T, s *Store) (off int64, name string, at int64) {
	t.Helper()
	ps := &pieces{}
	for off := int64(0); off < s.SizeBytes(); off += SectorBytes {
		if err := s.planHealed(ps, make([]byte, SectorBytes), off); err != nil {
			t.Fatal(err)
		}
		x := ps.list[0]
		s.finish(ps)
		if x.g != nil && !x.nil && x.g != s.active {
			return off, x.g.name, x.off
		}
	}
	t.Fatal("nothing is in the journal")
	return 0, "", 0
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

func (f *badFile) ReadVecAt(bufs [][]byte, off int64) (int, error) {
	for at := range f.of.bad[f.name] {
		if at < off+int64(len(slices.Concat(bufs...))) && at+SectorBytes > off {
			return 0, errDisk
		}
	}
	return f.File.ReadVecAt(bufs, off)
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
