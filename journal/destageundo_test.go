package journal

import (
	"bytes"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A batch that ends where a rewind began, in the middle of a segment, is interrupted, and the
// rewind is undone: the path goes through that segment then. What is before the horizon in it
// is in the base all the same when the base is said to be there, and what is behind it is not
// forgotten.
func TestUndoOfARewindWhileABatchIsUnfinished(t *testing.T) {
	const piece = 32 << 10
	for _, alone := range []bool{false, true} { // whether the segment is all that there is of the batch
		fault := vfs.NewFault(vfs.NewMem())
		cfg := Config{FS: fault, Dir: worldDir, SegmentBytes: MinSegmentBytes}
		makeParent(t, fault)
		if err := Create(cfg, Spec{testVolume, testVolumeBytes}); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, cfg)
		write := func(b byte, off int64) Position {
			t.Helper()
			at, err := s.Write(bytes.Repeat([]byte{b}, piece), off)
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
		endSegment := func() {
			t.Helper()
			s.appendMu.Lock()
			s.retireActive()
			s.appendMu.Unlock()
			if err := errors.Join(s.Flush(t.Context()), s.sealPending()); err != nil {
				t.Fatal(err)
			}
		}
		write(1, 0)
		if !alone {
			endSegment()
		}
		point := write(2, piece)
		write(3, 0)
		newest := write(4, piece)
		endSegment()
		rewound, err := s.Fork(point, "rewind")
		if err != nil {
			t.Fatal(err)
		}
		left := write(5, 2*piece)
		endSegment()
		if err := s.Pin("left", left); err != nil {
			t.Fatal(err)
		}
		s.SetRetention(Retention{JournalBytes: 1})
		fault.FailFrom(fault.Count(vfs.OpWrite)+1, vfs.ErrNoSpace, vfs.OpWrite)
		if err := s.Maintain(t.Context()); !errors.Is(err, ErrFull) || s.Horizon() != point {
			t.Fatalf("a batch without room in the base: %v, horizon at %s; want ErrFull, %s", err, s.Horizon(), point)
		}
		fault.Mend()
		mustClose(t, s)
		s = mustOpen(t, cfg)
		s.SetRetention(Retention{JournalBytes: 1})
		if _, err := s.Fork(newest, "undo"); err != nil {
			t.Fatal(err)
		}
		if err := s.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		check := func() {
			t.Helper()
			if s.state.Base != point {
				t.Errorf("the base is at %s, want %s, where the batch ends", s.state.Base, point)
			}
			for at, want := range map[Position][]byte{point: {1, 2, 0}, left: {1, 2, 5}, s.Tip(): {3, 4, 0}} {
				v, err := s.View(at)
				if err != nil {
					t.Fatal(err)
				}
				got := readAll(t, v, 3*piece)
				if err := v.Close(); err != nil {
					t.Fatal(err)
				}
				if found := []byte{got[0], got[piece], got[2*piece]}; !bytes.Equal(found, want) {
					t.Errorf("alone=%t: the view at %s reads as %v, want %v", alone, at, found, want)
				}
			}
			if got := readAll(t, s, 3*piece); got[0] != 3 || got[piece] != 4 || got[2*piece] != 0 {
				t.Errorf("alone=%t: the volume reads as %d %d %d, want 3 4 0", alone, got[0], got[piece], got[2*piece])
			}
		}
		check()
		if err := s.Adopt(rewound); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, s, 3*piece); got[0] != 1 || got[piece] != 2 || got[2*piece] != 5 {
			t.Errorf("alone=%t: the timeline that was left reads as %d %d %d, want 1 2 5", alone, got[0], got[piece], got[2*piece])
		}
		mustClose(t, s)
	}
}
