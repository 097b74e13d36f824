package journal

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

// A file system that trims must get its space back: once the discard has left
// the window, the base has a hole there.
func TestDiscardedSpaceReturnsToTheFileSystem(t *testing.T) {
	cfg := testConfig(t)
	cfg.JournalBytes = 2 * MinSegmentBytes
	s := createAndOpen(t, cfg)
	const region = 1 << 20
	push := func() {
		t.Helper()
		for range 40 { // beyond the budget, elsewhere on the volume
			if _, err := s.Write(bytes.Repeat([]byte{3}, 32<<10), 3<<20); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	inBase := func() (n int64) {
		t.Helper()
		err := allocation(newExtentMap(), s.base, 0, region, func(r AllocatedRange) bool {
			if !r.Zero {
				n += r.Length
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for off := int64(0); off < region; off += 64 << 10 {
		if _, err := s.Write(bytes.Repeat([]byte{1}, 64<<10), off); err != nil {
			t.Fatal(err)
		}
	}
	push()
	if n := inBase(); n != region {
		t.Fatalf("%d bytes of the base are allocated after destage, want %d", n, region)
	}
	if _, err := s.Discard(0, region); err != nil {
		t.Fatal(err)
	}
	push()
	if n := inBase(); n != 0 {
		t.Errorf("%d bytes of the base are still allocated after a discard", n)
	}
	if !bytes.Equal(readAll(t, s, region), make([]byte, region)) {
		t.Error("discarded region does not read as zeroes")
	}
	mustClose(t, s)
}

func TestHorizonFollowsTheWindowInTime(t *testing.T) {
	cfg := testConfig(t)
	hand := clock.NewManual(time.Unix(10_000, 0))
	cfg.Clock, cfg.Window = hand, time.Hour
	s := createAndOpen(t, cfg)
	write := func() Position {
		t.Helper()
		var pos Position
		var err error
		for range 20 { // more than a segment
			if pos, err = s.Write(bytes.Repeat([]byte{1}, 32<<10), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
		return pos
	}
	early := write()
	hand.Advance(59 * time.Minute)
	late := write()
	if v, err := s.View(early); err != nil {
		t.Errorf("position inside the window: %v", err)
	} else if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	hand.Advance(2 * time.Minute) // early left the window, late did not
	write()
	if _, err := s.View(Position{early.Timeline, 1}); err == nil {
		t.Error("a position that left the window can be opened")
	}
	if v, err := s.View(late); err != nil {
		t.Errorf("position inside the window: %v", err)
	} else if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
}
