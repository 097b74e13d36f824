package journal

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
)

// hasKept makes sure that a checkpoint of the time when all was 1 is listed and can be
// opened.
func (r *fullRig) hasKept(kept Checkpoint) {
	r.t.Helper()
	found := r.s.CheckpointsIn(kept.Group, kept.Number, kept.Number)
	if len(found) != 1 || found[0].Position != kept.Position {
		r.t.Fatalf("checkpoints are %+v, want the one that is kept", found)
	}
	v, err := r.s.View(kept.Position)
	if err != nil {
		r.t.Fatal(err)
	}
	p := make([]byte, MinSegmentBytes)
	if err := errors.Join(v.ReadAt(p, 0), v.Close()); err != nil {
		r.t.Fatal(err)
	}
	if !bytes.Equal(p, bytes.Repeat([]byte{1}, len(p))) {
		r.t.Error("what is kept has another content")
	}
}

// A segment that ends with the checkpoint that is kept stays, too.
func TestKeepPointAtTheEndOfASegment(t *testing.T) {
	r := newFullRig(t, 40, nil)
	r.mustWrite(2, 2*MinSegmentBytes, 1)
	if err := errors.Join(r.checkpoint(), r.s.Flush(context.Background())); err != nil {
		t.Fatal(err)
	}
	kept := r.s.NewestCheckpoint()
	r.s.KeepPoint(kept.Position, 0)
	mustClose(t, r.s) // which seals it
	r.s = mustOpen(t, r.cfg)
	r.s.KeepPoint(kept.Position, 0)
	r.s.SetRetention(Retention{JournalBytes: 1})
	r.mustWrite(4, 2*MinSegmentBytes, 2)
	if err := r.s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.hasKept(kept)
	mustClose(t, r.s)
}

// A checkpoint that was dropped before it was to be kept does not come back by that: what
// is there in its place is another moment.
func TestKeepPointOfWhatIsGone(t *testing.T) {
	r := newThinRig(t, clock.NewManual(time.Unix(1_000_000, 0)), nil)
	r.seconds(40)
	r.maintain()
	gone := 0
	for _, c := range r.points {
		if _, err := r.s.View(c.Position); !errors.Is(err, ErrThinned) {
			continue
		}
		gone++
		r.s.KeepPoint(c.Position, 0)
		if v, err := r.s.View(c.Position); !errors.Is(err, ErrThinned) {
			t.Fatalf("view of checkpoint %d, which was dropped: %v, want ErrThinned", c.Number, errors.Join(err, v.Close()))
		}
	}
	if gone == 0 {
		t.Fatal("nothing was dropped")
	}
}

// What is kept for a while is let go of when nobody has said for as long that it is
// still to be kept.
func TestKeepPointEnds(t *testing.T) {
	c := clock.NewManual(time.Unix(1_000_000, 0))
	r := newThinRig(t, c, nil)
	r.seconds(2)
	at := r.points[0].Position
	r.s.KeepPoint(at, time.Hour)
	for _, step := range []struct {
		again bool
		want  Position
	}{{false, at}, {true, at}, {false, at}, {false, Position{}}} {
		if step.again {
			r.s.KeepPoint(at, time.Hour)
		}
		if got := r.s.KeptPoint(); got != step.want {
			t.Errorf("%v is kept, want %v", got, step.want)
		}
		c.Advance(40 * time.Minute)
		r.s.endHolds()
	}
}

// What somebody says is still to be kept, at the moment at which nobody has said so for too
// long, is kept.
func TestKeepPointAgainWhenItsTimeIsOver(t *testing.T) {
	now := clock.NewManual(time.Unix(1_000_000, 0))
	r := newThinRig(t, now, nil)
	at := r.second(1).Position
	for range 5000 {
		r.s.KeepPoint(at, time.Second)
		now.Advance(2 * time.Second)
		begin := make(chan struct{})
		var both sync.WaitGroup
		both.Go(func() { <-begin; r.s.endHolds() })
		both.Go(func() { <-begin; r.s.KeepPoint(at, time.Hour) })
		close(begin)
		both.Wait()
		if kept := r.s.KeptPoint(); kept != at {
			t.Fatalf("%s is kept, want %s, as was said last", kept, at)
		}
	}
}
