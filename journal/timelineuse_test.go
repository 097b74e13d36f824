package journal

import (
	"bytes"
	"context"
	"fmt"
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
