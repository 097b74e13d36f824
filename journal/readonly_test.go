package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// TestReadOnlyShowsEveryPosition compares the images of a store that nobody has
// open with the model and with the views of the store once it is opened, after a
// clean close and after a kill, and that nothing changed by it.
func TestReadOnlyShowsEveryPosition(t *testing.T) {
	for _, load := range workloads {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, killed %t", load.name, killed), func(t *testing.T) {
				w := newWorld(t, 3, load.change)
				if err := errors.Join(w.run(load.steps, 150), w.closeViews()); err != nil {
					t.Fatal(err)
				}
				pins, horizon := w.s.Pins(), w.s.Horizon()
				mem := w.mem.KillClone()
				if !killed {
					mustClose(t, w.s)
					mem = w.mem
				}
				fault := vfs.NewFault(mem)
				r, err := OpenReadOnly(Config{FS: fault, Dir: worldDir, JournalDir: w.cfg.JournalDir})
				if err != nil {
					t.Fatal(err)
				}
				if r.Tip() != w.m.tip || r.Horizon() != horizon || len(r.Pins()) != len(pins) || r.SizeBytes() != w.m.size || len(r.Damage()) != 0 {
					t.Fatalf("tip %s, horizon %s, pins %v, %d bytes, damage %v", r.Tip(), r.Horizon(), r.Pins(), r.SizeBytes(), r.Damage())
				}
				w.mount(mem.KillClone())
				if err := w.open(); err != nil {
					t.Fatal(err)
				}
				checkImages(t, w.m, r, w.s)
				mustClose(t, w.s)
				for _, c := range r.Checkpoints() {
					if w.m.points[c.Number] != c.Position {
						t.Errorf("checkpoint %d is at %s, want %s", c.Number, c.Position, w.m.points[c.Number])
					}
				}
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				if n := fault.Count(); n != 0 {
					t.Errorf("%d changes:\n%s", n, fault.Trace())
				}
			})
		}
	}
}

// checkImages: what can be opened can be read, and what cannot, not.
func checkImages(t *testing.T, m *model, r *ReadOnly, s *Store) {
	t.Helper()
	seen := 0
	for _, pos := range m.past {
		im, err := r.Image(context.Background(), pos, ImageOptions{})
		v, viewErr := s.View(pos)
		if (err == nil) != (viewErr == nil) || errors.Is(err, ErrHorizon) != errors.Is(viewErr, ErrHorizon) || errors.Is(err, ErrUnknownPosition) != errors.Is(viewErr, ErrUnknownPosition) {
			t.Fatalf("image at %s: %v; view: %v", pos, err, viewErr)
		}
		if err != nil {
			continue
		}
		_ = v.Close()
		want := m.images[pos]
		if im.SizeBytes() != int64(len(want)) || !bytes.Equal(readAll(t, im, im.SizeBytes()), want) {
			t.Fatalf("image at %s differs from the model", pos)
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		seen++
	}
	if seen < 2 {
		t.Fatalf("only %d positions could be read", seen)
	}
}

// TestReadOnlyTakesTheLock: a store in use changes under who reads it.
func TestReadOnlyTakesTheLock(t *testing.T) {
	w := newWorld(t, 1, nil)
	if _, err := OpenReadOnly(Config{FS: w.mem, Dir: worldDir}); !errors.Is(err, ErrInUse) {
		t.Fatalf("read an open store: %v", err)
	}
	mustClose(t, w.s)
	r, err := OpenReadOnly(Config{FS: w.mem, Dir: worldDir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(w.cfg); !errors.Is(err, ErrInUse) {
		t.Fatalf("open a store that is read: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReadOnly(Config{FS: w.mem, Dir: "stores"}); !errors.Is(err, ErrNotStore) {
		t.Fatalf("read no store: %v", err)
	}
}

// TestImageMeetsDamage inverts each byte range of each segment in turn: no image
// has bytes that are not the model's, unless it says which.
func TestImageMeetsDamage(t *testing.T) {
	w := newWorld(t, 5, nil)
	steps := []step{{10, (*world).write}, {3, (*world).discard}, {1, (*world).checkpoint}, {1, (*world).fork}, {1, (*world).maintain}}
	if err := errors.Join(w.run(steps, 120), w.closeViews(), w.s.Close()); err != nil {
		t.Fatal(err)
	}
	names, err := w.mem.ReadDir(worldDir + "/" + journalDir)
	if err != nil {
		t.Fatal(err)
	}
	lost, named := 0, 0
	for _, name := range names {
		size, err := w.mem.Stat(worldDir + "/" + journalDir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for off := int64(0); off < size; off += 3000 {
			mem := w.mem.KillClone()
			if err := mem.Corrupt(worldDir+"/"+journalDir+"/"+name, off, 40); err != nil {
				t.Fatal(err)
			}
			l, n := checkDamaged(t, w, mem)
			lost, named = lost+l, named+n
		}
	}
	if lost == 0 || named == 0 {
		t.Fatalf("%d sectors were lost, %d images named their damage: nothing was tested", lost, named)
	}
}

// checkDamaged reads the images at the middle and the end of a damaged store, and
// counts the sectors that are lost, and the errors without KeepGoing.
func checkDamaged(t *testing.T, w *world, mem *vfs.Mem) (lost, named int) {
	t.Helper()
	r, err := OpenReadOnly(Config{FS: mem, Dir: worldDir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, pos := range []Position{w.m.past[len(w.m.past)/2], w.m.tip} {
		im, err := r.Image(context.Background(), pos, ImageOptions{KeepGoing: true})
		if errors.Is(err, ErrUnknownPosition) && len(r.Damage()) > 0 {
			continue // its records are not found any more
		}
		if err != nil {
			t.Fatalf("image at %s: %v", pos, err)
		}
		gone := 0
		for off := int64(0); off < im.SizeBytes(); off += SectorBytes {
			p := make([]byte, SectorBytes)
			switch err := im.ReadAt(p, off); {
			case errors.Is(err, ErrCorrupt):
				gone++
			case err != nil:
				t.Fatal(err)
			case !bytes.Equal(p, w.m.images[pos][off:off+SectorBytes]) && len(im.Unknown()) == 0:
				t.Fatalf("image at %s: other bytes at %d, and nobody says so", pos, off)
			}
		}
		whole, err := r.Image(context.Background(), pos, ImageOptions{})
		if (err == nil) != (gone == 0 && len(im.Unknown()) == 0 && len(r.Damage()) == 0) {
			t.Fatalf("image at %s: %d sectors lost, unknown %v, damage %v: %v", pos, gone, im.Unknown(), r.Damage(), err)
		}
		if err == nil {
			_ = whole.Close()
		} else if errors.Is(err, ErrCorrupt) {
			named++
		}
		lost += gone
		_ = im.Close()
	}
	return lost, named
}
