package enginepod_test

import (
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine/control"
)

// edit changes what a node does, beside its engine.
func (d *devices) edit(change func(d *devices)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// without are orders in which the volume has no device.
func without(r *rig, revision uint64) map[string]control.Orders {
	replica := r.primary(1, revision)
	replica.Role, replica.Writable = control.Replica, false
	return map[string]control.Orders{"detach": r.primary(1, revision), "replica": replica}
}

// untouched checks that the device of a node is still the first one, and the volume's.
func untouched(t *testing.T, here *devices) {
	t.Helper()
	here.mu.Lock()
	defer here.mu.Unlock()
	if here.made != 1 || here.revoked != 0 || here.there == "" {
		t.Errorf("%d devices were made, %d taken away, %q is there", here.made, here.revoked, here.there)
	}
}

// An engine that has just started has not taken its device over when it is ordered to
// have none. Whoever uses that must not lose it, and the order is not carried out while
// it is there.
func TestOrdersWithoutADeviceFindTheOneThatWaits(t *testing.T) {
	for _, name := range []string{"detach", "replica"} {
		t.Run(name, func(t *testing.T) {
			here := &devices{name: "here"}
			r, o := attachedOn(t, here)
			here.edit(func(d *devices) { d.fail, d.busy = errors.New("the engine before has not ended"), true })
			r.moveTo(here)
			orders := without(r, 2)[name]
			if s, err := r.client.Order(ctx, orders); !errors.Is(err, control.ErrDeviceInUse) {
				t.Fatalf("while the device cannot be taken over: %+v, %v, want ErrDeviceInUse", s, err)
			}
			here.edit(func(d *devices) { d.fail = nil })
			if s, err := r.client.Order(ctx, orders); !errors.Is(err, control.ErrDeviceInUse) {
				t.Fatalf("while the device is in use: %+v, %v, want ErrDeviceInUse", s, err)
			}
			if s, _ := r.pod.State(); s.Device == "" {
				t.Error("the device that is in use is not served")
			}
			untouched(t, here)

			// As the controller does, which takes its order back.
			o.Revision = 3
			r.order(o)
			untouched(t, here)
			here.edit(func(d *devices) { d.busy = false })
			if s := r.order(without(r, 4)[name]); s.Device != "" {
				t.Errorf("detached: %+v", s)
			}
			here.mu.Lock()
			defer here.mu.Unlock()
			if here.there != "" {
				t.Errorf("the order is carried out, and %q waits", here.there)
			}
		})
	}
}

// A detach was refused, since somebody uses the device, and the engine ends before the
// order is taken back: the next one serves the device until nobody uses it.
func TestARefusedDetachDoesNotOrphanTheDevice(t *testing.T) {
	for _, name := range []string{"detach", "replica"} {
		t.Run(name, func(t *testing.T) {
			here := &devices{name: "here", busy: true}
			r, o := attachedOn(t, here)
			orders := without(r, 2)[name]
			if _, err := r.client.Order(ctx, orders); !errors.Is(err, control.ErrDeviceInUse) {
				t.Fatal(err)
			}
			r.moveTo(here)
			if _, err := r.client.Order(ctx, orders); !errors.Is(err, control.ErrDeviceInUse) {
				t.Fatalf("the next engine: %v, want ErrDeviceInUse", err)
			}
			if s, _ := r.pod.State(); s.Device == "" {
				t.Error("the next engine does not serve what is in use")
			}
			o.Revision = 3
			r.order(o)
			untouched(t, here)
		})
	}
}

// While a node does not say whether the device waits, it may.
func TestOrdersWithoutADeviceWaitForTheNodesWord(t *testing.T) {
	here := &devices{name: "here"}
	r, _ := attachedOn(t, here)
	here.edit(func(d *devices) { d.fail, d.deaf = errors.New("no holder"), errors.New("no holder") })
	r.moveTo(here)
	orders := r.primary(1, 2)
	if _, err := r.client.Order(ctx, orders); !errors.Is(err, control.ErrDeviceInUse) {
		t.Fatalf("order: %v, want ErrDeviceInUse", err)
	}
	if err := r.client.Fork(ctx, r.engine().Store().Tip(), "rewind 1"); !errors.Is(err, control.ErrDeviceInUse) {
		t.Errorf("fork: %v, want ErrDeviceInUse", err)
	}
	untouched(t, here)
	here.edit(func(d *devices) { d.fail, d.deaf = nil, nil })
	if s := r.order(orders); s.Device != "" {
		t.Errorf("detached: %+v", s)
	}
	here.expect(t, counts{made: 1, taken: 1})
}

// A volume that never had a device, or has it no more, is not asked about.
func TestAVolumeWithoutADeviceNeedsNoNode(t *testing.T) {
	here := &devices{name: "here", deaf: errors.New("no holder")}
	r := newRig(t, newNetwork(), 1)
	r.moveTo(here)
	r.order(r.primary(1, 1))
	r.moveTo(here)
	r.resumed(1)
	r.order(without(r, 2)["replica"])
}

// What a holder says waits is what an attach would take over.
func TestTheHolderTellsWhatWaits(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("asking a holder not tested: FUSE mounts and loop devices need root")
	}
	_, socket := startHolder(t, time.Nanosecond)
	r := newRig(t, newNetwork(), 1)
	r.order(r.primary(1, 1))
	devices := enginepod.HolderDevices{Volume: r.id, Socket: socket, Log: slog.New(slog.DiscardHandler)}
	var identity string
	none, other := "", "0123456789abcdef"
	expect := func(when string, last *string, want *control.Attach) {
		t.Helper()
		got, err := devices.Waiting(within(t, 20*time.Second), last)
		if err != nil || (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: %+v, %v, want %+v", when, got, err, want)
		}
	}
	expect("before", nil, nil)
	how := control.Attach{BlockBytes: 4096, ReadOnly: true}
	device, err := devices.Attach(within(t, 20*time.Second), how, r.engine(), &none, func(kept string) error { identity = kept; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := device.Release(); err != nil {
		t.Fatal(err)
	}
	expect("the volume's own", &identity, &how)
	expect("it is not known which is the volume's", nil, &how)
	expect("the volume has had another one", &other, nil)
	expect("the volume has none", &none, nil)
	device, err = devices.Attach(within(t, 20*time.Second), how, r.engine(), &identity, func(string) error { return nil })
	if err == nil {
		err = device.Detach(within(t, 20*time.Second))
	}
	if err != nil {
		t.Fatal(err)
	}
	expect("detached", &identity, nil)
	devices.Socket += "-that-nobody-listens-on"
	if got, err := devices.Waiting(within(t, 20*time.Second), &identity); err == nil {
		t.Errorf("without a holder: %+v", got)
	}
}
