package journal

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// firstReady is the segment that becomes active next; nil if there is none.
func firstReady(s *Store) *segment {
	if s.ready.len() == 0 {
		return nil
	}
	return s.ready.queue[0]
}

// The segment that is ready before the first write is a small one.
func TestAnIdleStoreTakesLittleSpace(t *testing.T) {
	w := newWorld(t, 1, func(cfg *Config) { cfg.SegmentBytes = 8 * firstSegmentBytes })
	if err := w.s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if g := firstReady(w.s); g == nil || g.bytes != firstSegmentBytes {
		t.Fatalf("ready: %+v, want a segment of %d bytes", g, firstSegmentBytes)
	}
	if err := w.write(); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if g := firstReady(w.s); g == nil || g.bytes != w.cfg.SegmentBytes {
		t.Errorf("ready behind the first: %+v, want a segment of %d bytes", g, w.cfg.SegmentBytes)
	}
	if err := w.s.Close(); err != nil {
		t.Error(err)
	}
}

// Destage may hold maintainMu for a long time; appends have their next segment
// all the same, and complete ones are sealed.
func TestSupplyDoesNotWaitForDestage(t *testing.T) {
	w := newWorld(t, 1, nil)
	s := w.s
	s.maintainMu.Lock()
	payload := make([]byte, 32<<10)
	for range 3 * MinSegmentBytes / len(payload) {
		if _, err := s.Write(payload, 0); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.toSeal) == 0 {
		t.Fatal("no segment is complete")
	}
	if err := s.supply(); err != nil { // or it hangs
		t.Fatal(err)
	}
	if len(s.toSeal) != 0 || s.ready.len() == 0 {
		t.Errorf("%d segments wait for their footer, ready: %d", len(s.toSeal), s.ready.len())
	}
	s.maintainMu.Unlock()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A file that is filled with zeroes is handed over as soon as an append waits
// for it.
func TestAnAppendEndsTheZeroing(t *testing.T) {
	for _, hurried := range []bool{false, true} {
		mem := vfs.NewMem()
		w := newWorld(t, 1, func(cfg *Config) { cfg.SegmentBytes = 4 * zeroChunkBytes })
		f, err := mem.Create("new")
		if err != nil {
			t.Fatal(err)
		}
		if hurried {
			w.s.hurried.Add(1)
		}
		if err := w.s.writeZeroes(&segment{name: "new", file: f, bytes: w.cfg.SegmentBytes}); err != nil {
			t.Fatal(err)
		}
		size, err := f.Size()
		if err != nil {
			t.Fatal(err)
		}
		if full := size == w.cfg.SegmentBytes; full == hurried {
			t.Errorf("hurried %t: wrote %d of %d bytes", hurried, size, w.cfg.SegmentBytes)
		}
		if err := w.s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A new file is written twice only for those who flush what they write.
func TestOnlyWhatIsFlushedOftenGetsZeroes(t *testing.T) {
	for _, tt := range []struct {
		name         string
		bytesPerSync int
		zeroes       bool
	}{
		{"each record", 32 << 10, true},
		{"two records", 64 << 10, true},
		{"a checkpoint now and then", 512 << 10, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 1, func(cfg *Config) { cfg.SegmentBytes = firstSegmentBytes })
			if err := w.s.Close(); err != nil {
				t.Fatal(err)
			}
			io := &countedIO{FS: w.cfg.FS}
			w.cfg.FS = io
			if err := w.open(); err != nil {
				t.Fatal(err)
			}
			payload := make([]byte, 32<<10)
			for written := 0; w.s.nextID < 3; written += len(payload) { // until a segment ended
				if _, err := w.s.Write(payload, 0); err != nil {
					t.Fatal(err)
				}
				if written%tt.bytesPerSync == 0 {
					if err := w.s.Flush(context.Background()); err != nil {
						t.Fatal(err)
					}
				}
			}
			io.journal.reset()
			if err := w.s.prepareReady(); err != nil {
				t.Fatal(err)
			}
			if got := io.journal.bytes.Load() >= w.cfg.SegmentBytes; got != tt.zeroes {
				t.Errorf("wrote %v to the next file; want zeroes: %t", &io.journal, tt.zeroes)
			}
			if err := w.s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What an owner had open who did not close the store is never written to again,
// because that owner may still run somewhere, cut off: not by being reused for
// new segments either.
func TestFilesOfAnOwnerThatIsGoneAreNotReused(t *testing.T) {
	for _, clean := range []bool{true, false} {
		w := newWorld(t, 1, nil)
		payload := make([]byte, 32<<10)
		for range 3 * MinSegmentBytes / len(payload) {
			if _, err := w.s.Write(payload, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.s.Maintain(context.Background()); err != nil { // with a spare
			t.Fatal(err)
		}
		if err := w.s.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		mem := w.mem.KillClone()
		if clean {
			if err := w.s.Close(); err != nil {
				t.Fatal(err)
			}
			mem = w.mem
		}
		cfg := w.cfg
		cfg.FS = mem
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		reused := len(s.free)
		for _, g := range s.segments {
			if g.inherited == clean {
				t.Errorf("clean %t: segment %s may be reused: %t", clean, g.name, !g.inherited)
			}
		}
		if (reused > 0) != clean {
			t.Errorf("clean %t: %d files wait to be reused", clean, reused)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What was ready and is never written to does not gather, however often a store is opened and
// closed, and is no reserve for a full disk: it is too small for what a segment may need in
// the base.
func TestSmallFilesAreNotKeptForReuse(t *testing.T) {
	for name, before := range map[string]func(w *world) error{
		"opened and closed": func(w *world) error {
			for range 3 {
				if err := errors.Join(w.s.Maintain(context.Background()), w.s.Close()); err != nil {
					return err
				}
				w.s = mustOpen(t, w.cfg)
			}
			names, err := w.cfg.FS.ReadDir(w.s.cfg.file(journalDir))
			if len(names) > 0 {
				t.Errorf("opened and closed three times without a write: the journal has the files %q", names)
			}
			return err
		},
		"a leap began": func(w *world) error {
			if err := errors.Join(w.s.Maintain(context.Background()), w.s.BeginLeap(time.Second)); err != nil {
				return err
			}
			tip := w.s.Tip()
			r := Record{Kind: KindResize, Position: Position{tip.Timeline, tip.Seq + 1}, Length: w.s.SizeBytes()}
			return w.s.AppendLeap([]Record{r})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, func(cfg *Config) { cfg.SegmentBytes = 2 * firstSegmentBytes })
			if err := before(w); err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 64<<10)
			for len(w.s.segments) < 3 {
				_, err := w.s.Write(p, 0)
				if err := errors.Join(err, w.s.supply()); err != nil {
					t.Fatal(err)
				}
			}
			if len(w.s.free) == 0 {
				t.Fatal("there is no reserve")
			}
			for _, name := range w.s.free {
				if bytes, err := w.cfg.FS.Stat(w.s.cfg.file(name)); err != nil || bytes < w.cfg.SegmentBytes {
					t.Errorf("%s is kept for a full disk, with %d bytes, %v; want %d", name, bytes, err, w.cfg.SegmentBytes)
				}
			}
			if err := w.s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
