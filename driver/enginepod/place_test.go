package enginepod

import (
	"context"
	"errors"
	"testing"
	"time"
)

// taking is takePlace in a goroutine.
type taking struct {
	cancel context.CancelFunc
	done   chan error
	place  *place
}

func take(t *testing.T, dir string) *taking {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	w := &taking{cancel: cancel, done: make(chan error, 1)}
	go func() {
		var err error
		w.place, err = takePlace(ctx, dir)
		w.done <- err
	}()
	return w
}

func (w *taking) taken(t *testing.T) *place {
	t.Helper()
	if err := <-w.done; err != nil {
		t.Fatal(err)
	}
	return w.place
}

func (w *taking) waits(t *testing.T) {
	t.Helper()
	select {
	case err := <-w.done:
		t.Fatalf("two engines have the store: %v", err)
	default:
	}
}

func awaited(t *testing.T, p *place, want bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for p.awaited() != want {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("awaited is not %t", want)
		}
	}
}

func TestOneServesAndTheNextIsSeen(t *testing.T) {
	dir := t.TempDir()
	first := take(t, dir).taken(t)
	if first.awaited() {
		t.Error("nobody waits")
	}
	second := take(t, dir)
	awaited(t, first, true)
	third := take(t, dir)
	second.waits(t)
	third.waits(t)
	if err := first.leave(); err != nil {
		t.Fatal(err)
	}
	// Whichever of the two is next, one is, and the other waits for it.
	var now, later *taking
	select {
	case err := <-second.done:
		now, later = second, third
		second.done <- err
	case err := <-third.done:
		now, later = third, second
		third.done <- err
	}
	serving := now.taken(t)
	awaited(t, serving, true)
	later.waits(t)
	if err := serving.leave(); err != nil {
		t.Fatal(err)
	}
	if err := later.taken(t).leave(); err != nil {
		t.Fatal(err)
	}
}

func TestWhoGivesUpWaitingIsNotSeenAnyMore(t *testing.T) {
	dir := t.TempDir()
	first := take(t, dir).taken(t)
	second := take(t, dir)
	awaited(t, first, true)
	second.cancel()
	if err := <-second.done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	awaited(t, first, false)
	if err := first.leave(); err != nil {
		t.Fatal(err)
	}
	if err := take(t, dir).taken(t).leave(); err != nil {
		t.Fatal(err)
	}
}
