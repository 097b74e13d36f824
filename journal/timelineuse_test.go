package journal

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// describeUses names what keeps each timeline, by its reason.
func describeUses(s *Store) string {
	var all []string
	for _, u := range s.TimelineUses() {
		text := u.Reason
		if u.Active {
			text += " active"
		}
		if u.Leads {
			text += " leads"
		}
		for _, pin := range u.Pins {
			text += " pin:" + pin
		}
		if u.Views > 0 {
			text += fmt.Sprintf(" views:%d", u.Views)
		}
		if u.Orphaned() {
			text += " orphaned"
		}
		if u.Bytes > 0 {
			text += " takes room"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// TestOrphanedTimelinesAreReclaimed: a timeline that was left is listed with what keeps
// it, and goes with its segments when the window passes its fork.
func TestOrphanedTimelinesAreReclaimed(t *testing.T) {
	ctx := context.Background()
	cfg := testConfig(t)
	shortJournal(&cfg)
	s := createAndOpen(t, cfg)
	defer mustClose(t, s)
	expect := func(want string) {
		t.Helper()
		if got := describeUses(s); got != want {
			t.Errorf("timelines are %q, want %q", got, want)
		}
	}
	write := func(value byte) Position {
		t.Helper()
		at, err := s.Write(bytes.Repeat([]byte{value}, 4096), 0)
		if err == nil {
			err = s.Flush(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	at := write(1)
	left := write(2)
	if _, err := s.Fork(at, "first"); err != nil {
		t.Fatal(err)
	}
	abandoned := write(3)
	if err := s.Pin("back", abandoned); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fork(left, "second"); err != nil {
		t.Fatal(err)
	}
	write(4)
	v, err := s.View(abandoned)
	if err != nil {
		t.Fatal(err)
	}
	expect("created leads takes room, first pin:back views:1 takes room, second active takes room")
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpin("back"); err != nil {
		t.Fatal(err)
	}
	expect("created leads takes room, first orphaned takes room, second active takes room")
	for range 8 * MinSegmentBytes / 4096 {
		write(5)
	}
	if err := s.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	expect("second active takes room")
}

// TestWhatIsPinnedOnATimelineThatWasLeft is told of as long as it is pinned, also when the window
// has long passed where that timeline was left, and is there to go on from.
func TestWhatIsPinnedOnATimelineThatWasLeft(t *testing.T) {
	ctx := context.Background()
	cfg := testConfig(t)
	shortJournal(&cfg)
	s := createAndOpen(t, cfg)
	defer func() { mustClose(t, s) }()
	number := CheckpointNumber(0)
	point := func(value byte) Position {
		t.Helper()
		number++
		_, err := s.Write(bytes.Repeat([]byte{value}, 4096), 0)
		at := Position{}
		if err == nil {
			at, err = s.Checkpoint(Checkpoint{Number: number, Time: s.cfg.Clock.Now(), CheckpointInfo: CheckpointInfo{Group: "shop", Members: []VolumeID{testVolume}}})
		}
		if err == nil {
			err = s.Flush(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	expect := func(want ...CheckpointNumber) {
		t.Helper()
		var got []CheckpointNumber
		for _, c := range s.LeftCheckpoints("shop") {
			got = append(got, c.Number)
		}
		if !slices.Equal(got, want) {
			t.Errorf("left are %v, want %v", got, want)
		}
	}
	back := point(1)
	aside := point(2)
	point(3)
	for name, at := range map[string]Position{"back": back, "aside": aside, "again": aside} {
		if err := s.Pin(name, at); err != nil {
			t.Fatal(err)
		}
	}
	expect()
	if _, err := s.Fork(back, "rewind"); err != nil {
		t.Fatal(err)
	}
	expect(2)
	for range 8 * MinSegmentBytes / 4096 {
		point(4)
	}
	if err := s.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, cfg)
	expect(2)
	if others := s.LeftCheckpoints("bank"); len(others) != 0 {
		t.Errorf("of another group %v are left", others)
	}
	if err := s.Pin("present", s.NewestCheckpoint().Position); err != nil {
		t.Fatal(err)
	}
	newest := s.NewestCheckpoint().Number
	if _, err := s.Fork(aside, "rewind"); err != nil {
		t.Fatal(err)
	}
	expect(newest)
	p := make([]byte, 4096)
	if err := s.ReadAt(p, 0); err != nil || p[0] != 2 {
		t.Errorf("there it holds %d, %v, want 2", p[0], err)
	}
	if err := s.Unpin("present"); err != nil {
		t.Fatal(err)
	}
	expect()
}
