package journal

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// newPinRig takes a checkpoint a second and has a window of ten seconds.
func newPinRig(t *testing.T) *thinRig {
	t.Helper()
	return newThinRig(t, manualClock(), func(cfg *Config) { cfg.History, cfg.Window = nil, 10*time.Second })
}

// TestWhatPinsLeaveOfThePast: behind the window the pinned checkpoints are listed and
// no others, they alone can be opened, and history reaches back as far as the window.
func TestWhatPinsLeaveOfThePast(t *testing.T) {
	r := newPinRig(t)
	r.seconds(30)
	want := map[CheckpointNumber]bool{}
	for i := 3; i < 30; i += 9 {
		if err := r.s.Pin(fmt.Sprint("pin-", i), r.points[i].Position); err != nil {
			t.Fatal(err)
		}
		want[r.points[i].Number] = true
	}
	r.seconds(60)
	begin := r.clock.Now().Add(-r.cfg.Window)
	for _, c := range r.points {
		if !c.Time.Before(begin) {
			want[c.Number] = true
		}
	}
	for range 2 {
		listed := map[CheckpointNumber]bool{}
		for _, c := range r.s.Checkpoints() {
			listed[c.Number] = true
			if !want[c.Number] {
				t.Errorf("checkpoint %d of %s is listed", c.Number, c.Time)
			}
		}
		if len(listed) != len(want) {
			t.Errorf("%d checkpoints are listed, want %d", len(listed), len(want))
		}
		if oldest := r.s.OldestCheckpoint(); oldest.Time.Before(begin) || oldest.Time.After(begin.Add(time.Second)) {
			t.Errorf("history reaches back to %s, want the window's begin, %s", oldest.Time, begin)
		}
		r.maintain() // what is listed is what was listed before
	}
	if damaged := r.wrongOrDamaged(); damaged > 0 {
		t.Errorf("%d parts of what can be opened are damaged", damaged)
	}
	gone := r.dropped().Position
	if _, err := r.s.View(gone); !errors.Is(err, ErrThinned) {
		t.Errorf("open what no pin keeps: %v, want ErrThinned", err)
	}
}

// TestReaderHoldsWhatPinsDoNot: a replica that is behind reads all records, though
// they have left the window and nothing else keeps them.
func TestReaderHoldsWhatPinsDoNot(t *testing.T) {
	r := newPinRig(t)
	r.seconds(10)
	if err := r.s.Pin("pin", r.points[1].Position); err != nil {
		t.Fatal(err)
	}
	reader, err := r.s.Records(r.points[5].Position)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	r.seconds(60)
	before := r.maintain().Rewrites
	for next := r.points[5].Position.Seq + 1; next <= r.points[40].Position.Seq; next++ {
		if got, err := reader.Next(t.Context()); err != nil || got.Position.Seq != next {
			t.Fatalf("record %d is %d, %v", next, got.Position.Seq, err)
		}
	}
	r.maintain()
	if st := r.s.Stats().Thinning; before > 0 || st.Rewrites > 0 {
		t.Errorf("%d rewrites of what the reader had yet to read", st.Rewrites)
	}
	reader.Close()
	if r.maintain().Rewrites == 0 {
		t.Error("nothing was thinned when the reader had gone")
	}
}

// TestPinsOfAnotherTimeline: what lies on a timeline that a rewind has left is held by
// its pins, and thinned to them, as what follows the rewind is.
func TestPinsOfAnotherTimeline(t *testing.T) {
	r := newPinRig(t)
	r.seconds(20)
	for _, i := range []int{8, 15} {
		if err := r.s.Pin(fmt.Sprint("pin-", i), r.points[i].Position); err != nil {
			t.Fatal(err)
		}
	}
	left := r.s.Tip().Timeline
	if _, err := r.s.Fork(r.points[4].Position, "rewind"); err != nil {
		t.Fatal(err)
	}
	r.seconds(60)
	for range 3 {
		r.maintain()
	}
	thinned := map[TimelineID]int{}
	for _, g := range r.s.segments {
		if g.thinned == pinsOnly {
			thinned[g.timeline]++
		}
	}
	if thinned[left] == 0 || thinned[r.s.Tip().Timeline] == 0 {
		t.Errorf("segments that were thinned, by timeline: %v", thinned)
	}
	for _, i := range []int{4, 8, 15} {
		r.checkOpens(r.points[i])
	}
	for _, name := range []string{"pin-15", "pin-8"} {
		if err := r.s.Unpin(name); err != nil {
			t.Fatal(err)
		}
	}
	r.maintain()
	if lines := r.s.Timelines(); len(lines) != 1 {
		t.Errorf("without its pins the timeline is still among %v", lines)
	}
}

// TestGainsOfUnits: what rewriting a few segments can give.
func TestGainsOfUnits(t *testing.T) {
	closed, kept, open := pinPiece{closed: true}, pinPiece{closed: true, kept: true}, pinPiece{}
	of := func(part int, bytes int64, p pinPiece) pinPiece { p.part, p.bytes = part, bytes; return p }
	for name, c := range map[string]struct {
		pieces []pinPiece
		want   []int64
	}{
		"nothing follows":              {[]pinPiece{of(0, 10, closed)}, []int64{0}},
		"less follows":                 {[]pinPiece{of(0, 8, closed), of(1, 4, closed)}, []int64{4, 0}},
		"more follows":                 {[]pinPiece{of(0, 8, closed), of(1, 40, closed)}, []int64{8, 0}},
		"a unit of two segments":       {[]pinPiece{of(0, 8, open), of(1, 8, closed), of(2, 4, closed)}, []int64{2, 2, 0}},
		"nothing past what is kept":    {[]pinPiece{of(0, 8, closed), of(0, 8, kept), of(1, 8, closed)}, []int64{8, 0}},
		"all is kept":                  {[]pinPiece{of(0, 8, kept), of(0, 8, kept), of(1, 8, kept)}, []int64{0, 0}},
		"what goes on to what is kept": {[]pinPiece{of(0, 8, kept), of(0, 8, closed), of(1, 2, open), of(2, 2, kept)}, []int64{4, 0, 0}},
		"several in the same segment":  {[]pinPiece{of(0, 4, closed), of(0, 4, closed), of(0, 4, kept)}, []int64{8}},
		"the last one has no end":      {[]pinPiece{of(0, 4, closed), of(1, 8, open)}, []int64{4, 0}},
	} {
		if got := gainsOf(c.pieces, len(c.want)); !slices.Equal(got, c.want) {
			t.Errorf("%s: gains are %v, want %v", name, got, c.want)
		}
	}
}

// TestAPointAtTheHorizonIsListed: a checkpoint that is pinned, and that destage has come up
// to, is there for as long as the pin is: also where nothing of its segment is on the path
// to the present any more, but itself.
func TestAPointAtTheHorizonIsListed(t *testing.T) {
	for name, leave := range map[string]func(r *thinRig, at Position){
		"the present": func(*thinRig, Position) {},
		"a fork there": func(r *thinRig, at Position) {
			if _, err := r.s.Fork(at, "rewind"); err != nil {
				r.t.Fatal(err)
			}
		},
		"a fork there and another": func(r *thinRig, at Position) {
			for range 2 {
				if _, err := r.s.Fork(at, "rewind"); err != nil {
					r.t.Fatal(err)
				}
			}
		},
		"the end of a segment": func(r *thinRig, _ Position) {
			mustClose(r.t, r.s)
			r.s = mustOpen(r.t, r.cfg)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPinRig(t)
			r.seconds(3)
			pinned := r.points[len(r.points)-1]
			if err := r.s.Pin("before", pinned.Position); err != nil {
				t.Fatal(err)
			}
			leave(r, pinned.Position)
			listed := func(when string) {
				t.Helper()
				for _, points := range [][]Checkpoint{r.s.Checkpoints(), r.s.CheckpointsIn("shop", 0, 0), r.s.OpenableIn("shop", pinned.Number, pinned.Number)} {
					if !slices.ContainsFunc(points, func(c Checkpoint) bool { return c.Position == pinned.Position }) {
						t.Errorf("%s: the pinned point is not among %d that are listed", when, len(points))
					}
				}
			}
			listed("before anything is written")
			if newest := r.s.NewestCheckpoint(); newest.Position != pinned.Position {
				t.Errorf("the newest checkpoint is %d, want %d", newest.Number, pinned.Number)
			}
			r.maintain()
			listed("after destage")
			r.seconds(60)
			r.maintain()
			listed("behind the window")
			mustClose(t, r.s)
			r.s = mustOpen(t, r.cfg)
			listed("after a restart")
		})
	}
}

// TestAPointThatIsHeldUntilItIsPinnedStays: whoever pins a point holds it first. Destage, which
// comes up to it in between, does not take its record.
func TestAPointThatIsHeldUntilItIsPinnedStays(t *testing.T) {
	r := newPinRig(t)
	r.seconds(3)
	point := r.points[len(r.points)-1]
	mustClose(t, r.s)
	r.s = mustOpen(t, r.cfg) // the point is the last record of its segment
	if err := r.s.Hold("snapshot", point.Position, time.Hour); err != nil {
		t.Fatal(err)
	}
	r.seconds(60)
	r.maintain()
	if err := r.s.Pin("snapshot", point.Position); err != nil {
		t.Fatal(err)
	}
	r.s.Release("snapshot")
	r.maintain()
	if !slices.ContainsFunc(r.s.Checkpoints(), func(c Checkpoint) bool { return c.Position == point.Position }) {
		t.Error("the point is pinned, and not listed")
	}
}
