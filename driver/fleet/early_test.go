package fleet_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// slowStart has engines start only when the returned function is called; placed gets
// a token for each that has its node.
func (c *cluster) slowStart() (placed chan journal.VolumeID, start func()) {
	placed, started := make(chan journal.VolumeID, 10), make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin = func(ctx context.Context, spec fleet.EngineSpec) error {
		placed <- spec.Volume
		select {
		case <-started:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return placed, func() { close(started) }
}

// attached waits until a volume's engine serves a device.
func attached(t *testing.T, f *fleet.Fleet, n byte) {
	t.Helper()
	until(t, "the device to be there", func() bool {
		device, _, err := f.Device(id(n))
		return err == nil && device != ""
	})
}

// Whoever attaches does not wait for an engine that has its node and has yet to
// start. The device comes by itself.
func TestAnAttachmentDoesNotWaitForItsEngineToStart(t *testing.T) {
	c := newCluster(t)
	placed, start := c.slowStart()
	f := c.open()
	defer func() { closeFleet(t, f) }()
	mustCreate(t, f, newVolume(1, "shop"))
	for range 2 { // it is idempotent
		device, err := f.Attach(bounded(t), id(1), "node1", plain)
		if err != nil || device != "" {
			t.Fatalf("attach: %q, %v; want neither", device, err)
		}
	}
	<-placed
	if got := c.started(); got != 0 {
		t.Errorf("%d engines were started", got)
	}
	if _, err := f.Attach(bounded(t), id(1), "node2", plain); err == nil {
		t.Error("it was attached to another node as well")
	}
	start()
	attached(t, f, 1)
	write(t, c.device(id(1)), 1)
	takePoint(t, f, "shop")
	mustAttach(t, f, 1, "node1") // an engine that answers is waited for
}

// A controller that dies as soon as it has answered leaves everything that the next
// one needs to have the device served.
func TestAnEarlyAnswerOutlivesItsController(t *testing.T) {
	c := newCluster(t)
	_, start := c.slowStart()
	f := c.open()
	mustCreate(t, f, newVolume(1, "shop"))
	if _, err := f.Attach(bounded(t), id(1), "node1", plain); err != nil {
		t.Fatal(err)
	}
	closeFleet(t, f)
	c.db = c.db.Clone()
	start()
	f = c.open()
	defer func() { closeFleet(t, f) }()
	attached(t, f, 1)
	write(t, c.device(id(1)), 1)
	takePoint(t, f, "shop")
}

// An attachment that is taken back before its engine answers leaves no engine.
func TestAnEarlyAnswerIsTakenBack(t *testing.T) {
	c := newCluster(t)
	placed, start := c.slowStart()
	f := c.open()
	defer func() { closeFleet(t, f) }()
	mustCreate(t, f, newVolume(1, "shop"))
	if _, err := f.Attach(bounded(t), id(1), "node1", plain); err != nil {
		t.Fatal(err)
	}
	<-placed
	mustDetach(t, f, 1)
	start()
	if node := c.node(id(1)); node != "" {
		t.Errorf("an engine is left on %s", node)
	}
	mustAttachLate(t, f, 1, "node2")
	write(t, c.device(id(1)), 2)
	if node := c.node(id(1)); node != "node2" {
		t.Errorf("the engine is on %q", node)
	}
}

// mustAttachLate attaches and waits for the device.
func mustAttachLate(t *testing.T, f *fleet.Fleet, n byte, node string) {
	t.Helper()
	if _, err := f.Attach(bounded(t), id(n), node, plain); err != nil {
		t.Fatal(err)
	}
	attached(t, f, n)
}

// An engine that did not serve the last time is waited for, and what it says is the
// answer.
func TestAnAttachmentThatMayFailWaits(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	mustCreate(t, f, newVolume(1, "shop"))
	c.mu.Lock()
	c.unfit = control.ErrDeviceInUse
	c.mu.Unlock()
	if _, err := f.Attach(bounded(t), id(1), "node1", plain); !errors.Is(err, control.ErrDeviceInUse) {
		t.Fatalf("attach to an engine that cannot: %v", err)
	}
	mustDetach(t, f, 1)
	until(t, "the engine to be gone", func() bool { return c.node(id(1)) == "" })
	placed, start := c.slowStart()
	failed := make(chan error, 1)
	go func() {
		_, err := f.Attach(bounded(t), id(1), "node1", plain)
		failed <- err
	}()
	<-placed
	start()
	if err := <-failed; !errors.Is(err, control.ErrDeviceInUse) {
		t.Errorf("attach to an engine that still cannot: %v", err)
	}
}
