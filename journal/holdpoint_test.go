package journal

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// longGrace drops half a minute behind a tier of four seconds.
func longGrace(cfg *Config) { cfg.thinGrace = 30 * time.Second }

func numbersOf(all []Checkpoint) (numbers []CheckpointNumber) {
	for _, c := range all {
		numbers = append(numbers, c.Number)
	}
	return numbers
}

// What has left its tier and was not dropped yet can be opened, and is told of
// where that is asked for; what was dropped is not.
func TestOpenableOutlivesTheList(t *testing.T) {
	r := newThinRig(t, manualClock(), longGrace)
	r.seconds(90)
	if r.maintain().Rewrites == 0 {
		t.Fatal("nothing was thinned")
	}
	r.checkListed()
	openable := r.s.OpenableIn("shop", 0, 0)
	for _, c := range r.points {
		v, err := r.s.View(c.Position)
		if got := slices.Contains(numbersOf(openable), c.Number); got != (err == nil) {
			t.Errorf("checkpoint %d: told of as openable: %t; opening it: %v", c.Number, got, err)
		}
		if err == nil {
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			r.checkOpens(c)
		}
	}
	// The grace is of 30 seconds, and rewrites end at what is kept, behind a segment's end.
	if n, listed := len(openable), len(r.s.Checkpoints()); n < listed+20 || n > listed+50 {
		t.Errorf("%d checkpoints can be opened, %d are listed", n, listed)
	}
	first := openable[len(openable)-20].Number
	if got, want := numbersOf(r.s.OpenableIn("shop", first, first+5)), numbersOf(openable[len(openable)-20:len(openable)-14]); !slices.Equal(got, want) {
		t.Errorf("of a range it tells %v, want %v", got, want)
	}
	if got := r.s.OpenableIn("bank", 0, 0); len(got) != 0 {
		t.Errorf("another group has %v", got)
	}
}

// What is held is not dropped, by any tier, until it is released, or until its time
// is over, or the store is opened anew.
func TestAHoldKeepsAPosition(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(12)
	// None of these is the first of its four seconds.
	released, timed, moved, other := r.points[1], r.points[2], r.points[5], r.points[6]
	for name, c := range map[string]Checkpoint{"released": released, "timed": timed, "moved": moved} {
		if err := r.s.Hold(name, c.Position, 2*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.s.Hold("moved", other.Position, time.Hour); err != nil { // in place of what it held
		t.Fatal(err)
	}
	r.seconds(60)
	if r.maintain().Rewrites == 0 {
		t.Fatal("nothing was thinned")
	}
	for _, c := range []Checkpoint{released, timed, other} {
		r.checkOpens(c)
	}
	if err := r.s.Hold("moved", moved.Position, time.Hour); !errors.Is(err, ErrThinned) {
		t.Errorf("hold what was dropped: %v, want ErrThinned", err)
	}
	r.s.Release("released")
	r.s.Release("nobody")
	r.clock.Advance(2 * time.Minute)
	r.seconds(1)
	// What was thinned for a tier stays for it; as if destage came to it, the horizon may pass.
	r.s.SetRetention(Retention{JournalBytes: 1, History: r.cfg.History})
	r.maintain()
	for _, c := range []Checkpoint{released, timed} {
		if _, err := r.s.View(c.Position); !errors.Is(err, ErrHorizon) {
			t.Errorf("checkpoint %d can be opened, %v, although nobody holds it", c.Number, err)
		}
	}
	r.checkOpens(other)
	mustClose(t, r.s)
	r.s = mustOpen(t, r.cfg)
	r.maintain()
	if _, err := r.s.View(other.Position); !errors.Is(err, ErrHorizon) {
		t.Errorf("a hold outlived its process: %v", err)
	}
}

// A rewrite is given up for a hold that comes before it is put in place, and a hold
// that comes behind that is refused. Whatever can be opened reads as it did.
func TestAHoldRacesARewrite(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late %t", late), func(t *testing.T) {
			r := newThinRig(t, manualClock(), nil)
			r.seconds(60)
			if err := r.s.supply(); err != nil {
				t.Fatal(err)
			}
			job := r.s.nextThinJob()
			if job == nil {
				t.Fatal("nothing is due")
			}
			defer r.s.releaseParts(job.parts)
			survivors, err := r.s.survivors(t.Context(), job)
			if err != nil {
				t.Fatal(err)
			}
			outputs, err := r.s.layOut(job, survivors)
			if err == nil {
				err = r.s.writeOutputs(t.Context(), job, outputs, survivors)
			}
			if err != nil {
				t.Fatal(err)
			}
			c := r.points[1]
			if !job.drops(c.Position) {
				t.Fatalf("the rewrite keeps checkpoint %d", c.Number)
			}
			if late {
				if err := r.s.replaceThinned(job, outputs); err != nil {
					t.Fatal(err)
				}
				var thinned *ThinnedError
				if err := r.s.Hold("x", c.Position, time.Minute); !errors.As(err, &thinned) || thinned.Before.Number != 1 || thinned.After.Number != 5 {
					t.Errorf("a late hold: %v, want a ThinnedError that names 1 and 5", err)
				}
				if slices.Contains(numbersOf(r.s.OpenableIn("shop", 0, 0)), c.Number) {
					t.Error("what was dropped is told of as openable")
				}
				return
			}
			if err := r.s.Hold("x", c.Position, time.Minute); err != nil {
				t.Fatal(err)
			}
			if err := r.s.replaceThinned(job, outputs); !errors.Is(err, errThinLater) {
				t.Fatalf("the rewrite ends with %v, want errThinLater", err)
			}
			r.s.discardOutputs(outputs)
			if r.maintain().Rewrites == 0 {
				t.Error("nothing was thinned later")
			}
			r.checkOpens(c)
		})
	}
}

// Holds are bounded, and take a time.
func TestHoldsAreBounded(t *testing.T) {
	r := newThinRig(t, manualClock(), nil)
	r.seconds(2)
	at := r.points[0].Position
	for i := range maxNamedHolds {
		if err := r.s.Hold(fmt.Sprint(i), at, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.s.Hold("more", at, time.Minute); !errors.Is(err, ErrRange) {
		t.Errorf("one more: %v, want ErrRange", err)
	}
	if err := r.s.Hold("7", at, 2*time.Minute); err != nil {
		t.Errorf("one of them again: %v", err)
	}
	r.clock.Advance(time.Minute + 1)
	if err := r.s.Hold("more", at, time.Minute); err != nil {
		t.Errorf("when the others are over: %v", err)
	}
	if n := len(r.s.named); n != 2 {
		t.Errorf("%d are held, want 2", n)
	}
	if err := r.s.Hold("x", at, 0); !errors.Is(err, ErrRange) {
		t.Errorf("for no time: %v, want ErrRange", err)
	}
	if err := r.s.Hold("x", Position{99, 1}, time.Minute); !errors.Is(err, ErrUnknownPosition) {
		t.Errorf("of an unknown timeline: %v, want ErrUnknownPosition", err)
	}
}

// Of a store that nobody uses all is told that is there: nothing of it is dropped.
func TestAReadOnlyStoreTellsOfAllThatCanBeOpened(t *testing.T) {
	r := newThinRig(t, manualClock(), longGrace)
	r.seconds(90)
	r.maintain()
	r.clock.Advance(time.Hour / 2)
	want := numbersOf(r.s.OpenableIn("shop", 0, 0))
	mustClose(t, r.s)
	ro, err := OpenReadOnly(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := numbersOf(ro.Checkpoints()); !slices.Equal(got, want) || len(got) < len(r.points)/4+20 {
		t.Errorf("%d checkpoints are told of, want %d", len(got), len(want))
	}
	if err := ro.Close(); err != nil {
		t.Fatal(err)
	}
	r.s = mustOpen(t, r.cfg)
}
