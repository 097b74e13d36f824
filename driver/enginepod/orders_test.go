package enginepod_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

var ctx = context.Background()

func write(t *testing.T, dev engine.Device, off int64, b byte) {
	t.Helper()
	if err := dev.WriteAt(ctx, bytes.Repeat([]byte{b}, 512), off, false); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, dev engine.Device, off int64, want byte) {
	t.Helper()
	p := make([]byte, 512)
	if err := dev.ReadAt(ctx, p, off); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, bytes.Repeat([]byte{want}, 512)) {
		t.Errorf("at %d: %d…, want %d", off, p[0], want)
	}
}

func TestAnEngineWithoutOrdersHasNoStore(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	if _, err := r.client.Dirty(ctx); !errors.Is(err, control.ErrNoStore) {
		t.Errorf("dirty: %v, want ErrNoStore", err)
	}
	o := r.primary(1, 1)
	o.SizeBytes = 0
	if _, err := r.client.Order(ctx, o); !errors.Is(err, control.ErrNoStore) {
		t.Errorf("primary without a size: %v, want ErrNoStore", err)
	}
}

func TestOrdersAreCarriedOutAndOutliveTheProcess(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	o := r.primary(1, 1)
	o.Attach = &control.Attach{BlockBytes: 4096}
	s := r.order(o)
	if s.Device != "/dev/test0" || s.Store == nil || s.Store.SizeBytes != volumeBytes || s.Term != 1 || s.Revision != 1 {
		t.Fatalf("state %+v", s)
	}
	write(t, r.node.attached(), 0, 7)
	first := s.Incarnation
	r.stop()
	if r.node.attached() != nil {
		t.Error("the device is still served by a process that ended")
	}
	r.start()
	// Without a controller: it watches, and orders nothing.
	resumed := errors.New("resumed")
	err := func() (err error) {
		watching, stop := context.WithCancelCause(ctx)
		_ = r.client.Watch(watching, func(s control.State) {
			if s.Device != "" && s.Revision == 1 && s.Incarnation != first {
				stop(resumed)
			}
		})
		return context.Cause(watching)
	}()
	if !errors.Is(err, resumed) {
		t.Fatal(err)
	}
	expect(t, r.node.attached(), 0, 7)
	write(t, r.node.attached(), 512, 8)
}

func TestOlderOrdersAreRefused(t *testing.T) {
	tests := []struct {
		name           string
		term, revision uint64
		refused        bool
	}{
		{"same", 2, 5, false},
		{"lower revision", 2, 4, true},
		{"lower term, higher revision", 1, 9, true},
		{"higher revision", 2, 6, false},
		{"higher term, lower revision", 3, 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, newNetwork(), 1)
			r.order(r.primary(2, 5))
			_, err := r.client.Order(ctx, r.primary(tt.term, tt.revision))
			if refused := errors.Is(err, control.ErrStaleOrder); refused != tt.refused || err != nil && !refused {
				t.Errorf("order: %v, want refused %t", err, tt.refused)
			}
			// The refusal is remembered by the next process as well.
			r.stop()
			r.start()
			if _, err := r.client.Order(ctx, r.primary(tt.term, tt.revision)); errors.Is(err, control.ErrStaleOrder) != tt.refused {
				t.Errorf("order after a restart: %v, want refused %t", err, tt.refused)
			}
		})
	}
}

func TestAFencedTermTakesNoOrders(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	r.order(r.primary(1, 1))
	if err := r.client.Fence(ctx, 3); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start()
	if _, err := r.client.Order(ctx, r.primary(2, 1)); !errors.Is(err, control.ErrStaleOrder) {
		t.Errorf("order of term 2 behind a fence at 3: %v, want ErrStaleOrder", err)
	}
	if err := r.client.Lift(ctx, 3, 1); err != nil {
		t.Fatal(err)
	}
	r.order(r.primary(2, 1))
	if err := r.client.Fence(ctx, 4); err != nil {
		t.Fatal(err)
	}
	// Of the promote that was given up at term 3, late.
	if err := r.client.Lift(ctx, 3, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Order(ctx, r.primary(3, 1)); !errors.Is(err, control.ErrStaleOrder) {
		t.Errorf("a lift of term 3 lowered the fence at term 4: %v", err)
	}
	r.order(r.primary(4, 1))
	if err := r.client.Lift(ctx, 4, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Order(ctx, r.primary(2, 2)); !errors.Is(err, control.ErrStaleOrder) {
		t.Errorf("order of term 2 behind orders of term 4: %v, want ErrStaleOrder", err)
	}
}

func TestWritesStopBeforeTheAnswer(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	r.order(r.primary(1, 1))
	write(t, r.engine(), 0, 1)
	o := r.primary(1, 2)
	o.Writable = false
	r.order(o)
	if err := r.engine().WriteAt(ctx, make([]byte, 512), 0, false); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("write: %v, want ErrReadOnly", err)
	}
	r.order(r.primary(1, 3))
	write(t, r.engine(), 0, 2)
}

func TestADeviceInUseIsNotDetached(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	o := r.primary(1, 1)
	o.Attach = &control.Attach{BlockBytes: 512}
	r.order(o)
	r.node.attached().busy = true
	if _, err := r.client.Order(ctx, r.primary(1, 2)); !errors.Is(err, control.ErrDeviceInUse) {
		t.Fatalf("detach: %v, want ErrDeviceInUse", err)
	}
	write(t, r.node.attached(), 0, 1) // it goes on
	other := o
	other.Revision, other.Attach = 3, &control.Attach{BlockBytes: 4096}
	if _, err := r.client.Order(ctx, other); !errors.Is(err, control.ErrDeviceInUse) {
		t.Errorf("attach with other options: %v, want ErrDeviceInUse", err)
	}
	r.node.attached().busy = false
	if s := r.order(r.primary(1, 4)); s.Device != "" {
		t.Errorf("device %q after detach", s.Device)
	}
}

func TestAStoreIsFilledFromAnotherEngine(t *testing.T) {
	n := newNetwork()
	from, to := newRig(t, n, 1), newRig(t, n, 2)
	from.order(from.primary(1, 1))
	write(t, from.engine(), 0, 1)
	write(t, from.engine(), volumeBytes-512, 2)
	if err := from.client.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := from.client.Pin(ctx, "snap", from.engine().Store().Tip()); err != nil {
		t.Fatal(err)
	}
	write(t, from.engine(), 0, 9) // after the pin
	o := to.primary(1, 1)
	o.SizeBytes = 2 * volumeBytes
	o.Fill = &control.Fill{Address: from.id.String(), Volume: from.id, Pin: "gone"}
	if _, err := to.client.Order(ctx, o); !errors.Is(err, control.ErrNoPin) {
		t.Fatalf("fill from a pin that is not there: %v, want ErrNoPin", err)
	}
	o.Revision, o.Fill.Pin = 2, "snap"
	to.order(o)
	expect(t, to.engine(), 0, 1)
	expect(t, to.engine(), volumeBytes-512, 2)
	expect(t, to.engine(), volumeBytes, 0)
	o.Revision, o.SizeBytes = 3, volumeBytes/2
	if s := to.order(o); s.Store.SizeBytes != 2*volumeBytes {
		t.Errorf("an order shrank the volume to %d bytes", s.Store.SizeBytes)
	}
	small := newRig(t, n, 3)
	o = small.primary(1, 1)
	o.SizeBytes, o.Fill = volumeBytes/2, &control.Fill{Address: from.id.String(), Volume: from.id, Pin: "snap"}
	if _, err := small.client.Order(ctx, o); !errors.Is(err, journal.ErrRange) {
		t.Errorf("fill a smaller volume: %v, want ErrRange", err)
	}
}

func TestAnotherVolumesBackingIsRefused(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	r.order(r.primary(1, 1))
	r.stop()
	r.id = journal.VolumeID{2}
	if _, err := openPod(r); !errors.Is(err, journal.ErrForeign) {
		t.Errorf("open: %v, want ErrForeign", err)
	}
}

// Whoever finds a new device writes to it: a file system is made on it. So it is not
// there before the group admits writes, and stays when they are stopped.
func TestADeviceComesWhenWritesAreAdmitted(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	o := r.primary(1, 1)
	o.Attach, o.Writable = &control.Attach{BlockBytes: 4096}, false
	if s := r.order(o); s.Device != "" || r.node.attached() != nil {
		t.Fatalf("there is a device that refuses writes: %+v", s)
	}
	o.Revision, o.Writable = 2, true
	if s := r.order(o); s.Device == "" {
		t.Fatalf("there is no device: %+v", s)
	}
	write(t, r.node.attached(), 0, 7)
	o.Revision, o.Writable = 3, false
	if s := r.order(o); s.Device == "" {
		t.Errorf("the device has gone under its users: %+v", s)
	}
}

// Who orders is told once that it cannot be done at the moment, and may not order again: the
// node of a device waits for that, and its controller for the node. So the engine tries on.
func TestOrdersThatFailAreTriedAgain(t *testing.T) {
	r := newRig(t, newNetwork(), 1)
	r.order(r.primary(1, 1))
	r.node.mu.Lock()
	r.node.fail = errors.New("no loop device is free")
	r.node.mu.Unlock()
	o := r.primary(1, 2)
	o.Attach = &control.Attach{BlockBytes: 512}
	if _, err := r.client.Order(ctx, o); err == nil {
		t.Fatal("there is a device")
	}
	r.node.mu.Lock()
	r.node.fail = nil
	r.node.mu.Unlock()
	over := time.After(20 * time.Second)
	for {
		s, changed := r.pod.State()
		if s.Device != "" && s.Revision == 2 && s.Error == "" {
			return
		}
		select {
		case <-changed:
		case <-over:
			t.Fatalf("nobody has tried again: %+v", s)
		}
	}
}
