package fleet_test

import (
	"context"
	"errors"
	"testing"
)

// A detach that is given up while it waits for an engine's end, as one of a controller
// that starts and does not wait for long, does not keep the volume from being attached.
func TestAnAttachFollowsADetachThatWasGivenUp(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 1)
	stopping, end := make(chan struct{}, 1), make(chan struct{})
	c.mu.Lock()
	c.deaf = true
	c.stop = func(ctx context.Context) error {
		select {
		case stopping <- struct{}{}:
		default:
		}
		select {
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.mu.Unlock()
	c.kill(id(1))
	giving, giveUp := context.WithCancel(bounded(t))
	detached := make(chan error, 1)
	go func() { detached <- f.Detach(giving, id(1)) }()
	<-stopping
	giveUp()
	if err := <-detached; !errors.Is(err, context.Canceled) {
		t.Fatalf("detach: %v, want that it was given up", err)
	}
	close(end)
	c.mu.Lock()
	c.deaf = false
	c.mu.Unlock()
	mustAttachLate(t, f, 1, "node1")
	expect(t, c.device(id(1)), 1)
}
