package site

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// The pauses between attempts grow, and not without end; a reason is news once.
func TestPausesOfATakeOver(t *testing.T) {
	at := clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC))
	v := &volume{record: record{ID: journal.VolumeID{1}}}
	s := &Site{cfg: Config{Clock: at}, volumes: map[journal.VolumeID]*volume{v.record.ID: v}, deviceWaits: make(chan struct{}, 1)}
	if _, any := s.nextTakeOver(); any {
		t.Error("an attempt without a device that waits")
	}
	s.noteUnserved(v, holder.AttachConfig{}, errors.New("leased"))
	var pauses []time.Duration
	for range 8 {
		pause, any := s.nextTakeOver()
		if !any || len(s.dueTakeOvers()) != 0 {
			t.Fatalf("after %v: the next attempt is due at once, or never", pauses)
		}
		pauses = append(pauses, pause)
		at.Advance(pause)
		if due := s.dueTakeOvers(); len(due) != 1 || due[0] != v {
			t.Fatalf("after %v: due are %v", pauses, due)
		}
		if s.putOffTakeOver(v, errors.New("leased")) {
			t.Error("the same reason is news")
		}
	}
	want := []time.Duration{1, 2, 4, 8, 16, 30, 30, 30}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
	if !s.putOffTakeOver(v, errors.New("full")) {
		t.Error("another reason is no news")
	}
}
