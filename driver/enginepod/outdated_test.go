package enginepod_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// counts are what became of the devices of a node: how many were made, taken over by
// the next engine, and taken away from who used them.
type counts struct{ made, taken, revoked int }

func (d *devices) expect(t *testing.T, want counts) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if got := (counts{d.made, d.taken, d.revoked}); got != want {
		t.Errorf("on node %q: %+v, want %+v", d.name, got, want)
	}
}

// moveTo ends the engine, whose device stays where it is, and starts one on node.
func (r *rig) moveTo(node *devices) {
	r.t.Helper()
	r.stop()
	r.node = node
	r.start()
}

// attachedOn is an engine that serves its device on a node, and the orders for that.
func attachedOn(t *testing.T, node *devices) (r *rig, o control.Orders) {
	t.Helper()
	r = newRig(t, newNetwork(), 1)
	r.moveTo(node)
	o = r.primary(1, 1)
	o.Attach = &control.Attach{BlockBytes: 512}
	r.order(o)
	return r, o
}

// However often its engine ends, a device is the same one.
func TestTheNextEngineTakesItsDeviceOver(t *testing.T) {
	here := &devices{name: "here", boot: "1"}
	r, o := attachedOn(t, here)
	for range 3 {
		r.moveTo(here)
		r.resumed(1)
	}
	o.Revision, o.Window = 2, 2*o.Window
	r.order(o)
	r.moveTo(here)
	r.resumed(2)
	here.expect(t, counts{made: 1, taken: 4})
}

// A device that a volume has left behind is not taken over when the volume comes back,
// whatever has happened meanwhile.
func TestADeviceThatWasLeftBehindIsNotTakenOver(t *testing.T) {
	detach := func(r *rig) {
		r.order(r.primary(1, 2))
	}
	for name, meanwhile := range map[string]func(r *rig){
		"it was attached elsewhere": func(r *rig) {
			r.resumed(1)
			write(r.t, r.node.attached(), 0, 2)
		},
		"it was attached and detached elsewhere": func(r *rig) {
			r.resumed(1)
			detach(r)
		},
		"it was detached": detach,
		"it was rewound": func(r *rig) {
			detach(r)
			if err := r.client.Fork(ctx, r.engine().Store().Tip(), "rewind 1"); err != nil {
				r.t.Fatal(err)
			}
		},
		"it was a replica": func(r *rig) {
			o := r.primary(1, 2)
			o.Role, o.Writable = control.Replica, false
			r.order(o)
		},
	} {
		t.Run(name, func(t *testing.T) {
			here, elsewhere := &devices{name: "here"}, &devices{name: "elsewhere"}
			r, o := attachedOn(t, here)
			write(t, r.node.attached(), 0, 1)
			if name != "it was attached elsewhere" && name != "it was attached and detached elsewhere" {
				elsewhere.fail = errors.New("nothing is attached here")
			}
			r.moveTo(elsewhere)
			meanwhile(r)
			r.moveTo(here)
			o.Revision = 3
			r.order(o)
			here.expect(t, counts{made: 2, revoked: 1})
			r.moveTo(here)
			r.resumed(3)
			here.expect(t, counts{made: 2, taken: 1, revoked: 1})
		})
	}
}

// atRecovery is a file system on which a store is about to be recovered.
type atRecovery struct {
	vfs.FS
	first func() // called once
}

func (f *atRecovery) OpenDB(name string) (kv.DB, error) {
	if f.first != nil && strings.Contains(name, "/store-") {
		f.first()
		f.first = nil
	}
	return f.FS.OpenDB(name)
}

// A node is lost with what was acknowledged there and not flushed. From when an engine
// on another machine begins to recover the store, the device there counts on what the
// volume has not, also if that engine does not live to have a device of its own, and the
// node plugin there does not answer.
func TestADeviceIsLeftBehindBeforeTheStoreIsRecovered(t *testing.T) {
	for name, noted := range map[string]string{"the device is of this version": "1", "the device is of before machines were told apart": ""} {
		t.Run(name, func(t *testing.T) {
			here, elsewhere := &devices{name: "here", boot: noted}, &devices{name: "elsewhere", boot: "2", fail: errors.New("the node plugin is away")}
			r, _ := attachedOn(t, here)
			if err := r.fs.SyncDir("/"); err != nil { // the backing volume is durable
				t.Fatal(err)
			}
			here.boot = "1"
			r.moveTo(here)
			r.resumed(1)
			write(t, here.attached(), 0, 1)
			cut := r.fs.KillClone().CrashWith(nil, vfs.CrashOptions{LoseAll: true})
			r.stop()
			killed := make(chan *vfs.Mem, 1)
			r.fs, r.node = cut, elsewhere
			r.files = &atRecovery{FS: cut, first: func() { killed <- cut.KillClone() }}
			r.start()
			back := <-killed
			r.stop()
			r.fs, r.files, r.node = back, nil, here
			r.start()
			r.resumed(1)
			here.expect(t, counts{made: 2, taken: 1, revoked: 1})
			expect(t, here.attached(), 0, 0)
		})
	}
}

// A disk is taken from a machine by force, and attached to it again: what was acknowledged
// and not flushed went with the first attachment. An engine that was killed before it could
// notice has left a device that counts on it, and the next one, whose flushes would succeed,
// must not take that over. What was all on the disk by then has lost nothing.
func TestADeviceIsLeftBehindWhereItsDiskWasTakenAway(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string // attachments of the disk
		closed        bool   // the engine was not killed
		want          counts
	}{
		"by force": {"7", "8", false, counts{made: 2, revoked: 1}},
		"from an engine that had closed its store": {"7", "8", true, counts{made: 1, taken: 1}},
		"it was not":              {"7", "7", false, counts{made: 1, taken: 1}},
		"it was not known before": {"", "8", false, counts{made: 1, taken: 1}},
		"it is not known now":     {"7", "", false, counts{made: 1, taken: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			here := &devices{name: "here", boot: "1", disk: c.before}
			r, _ := attachedOn(t, here)
			if err := r.fs.SyncDir("/"); err != nil { // the backing volume is durable
				t.Fatal(err)
			}
			write(t, here.attached(), 0, 1)
			killed := r.fs.KillClone()
			if c.before != c.after {
				killed = killed.CrashWith(nil, vfs.CrashOptions{LoseAll: true})
			}
			r.stop()
			if !c.closed {
				r.fs = killed
			}
			here.disk = c.after
			r.start()
			r.resumed(1)
			here.expect(t, c.want)
			// What follows on the same attachment is what it always was.
			killed = r.fs.KillClone()
			r.stop()
			r.fs = killed
			r.start()
			r.resumed(1)
			c.want.taken++
			here.expect(t, c.want)
		})
	}
}

// The engine that comes next may end without a device, and leave a store that is all on the
// disk, but for what is gone.
func TestADeviceIsLeftBehindBeforeTheStoreIsRecoveredFromItsDisk(t *testing.T) {
	here := &devices{name: "here", boot: "1", disk: "7"}
	r, _ := attachedOn(t, here)
	if err := r.fs.SyncDir("/"); err != nil { // the backing volume is durable
		t.Fatal(err)
	}
	write(t, here.attached(), 0, 1)
	cut := r.fs.KillClone().CrashWith(nil, vfs.CrashOptions{LoseAll: true})
	r.stop()
	r.fs, here.disk, here.fail = cut, "8", errors.New("the node plugin is away")
	r.start()
	for s, changed := r.pod.State(); s.Store == nil; s, changed = r.pod.State() {
		<-changed
	}
	r.stop()
	here.fail = nil
	r.start()
	r.resumed(1)
	here.expect(t, counts{made: 2, revoked: 1})
}

// An engine that does not know on which machine it runs leaves everything as it is.
func TestADeviceOfAnUnknownMachineIsTakenOver(t *testing.T) {
	here := &devices{name: "here", boot: "1"}
	r, _ := attachedOn(t, here)
	for _, boot := range []string{"", "1", ""} {
		here.boot = boot
		r.moveTo(here)
		r.resumed(1)
	}
	here.expect(t, counts{made: 1, taken: 3})
}

// What is known of the device's machine and disk stays, too: a disk has its number within one
// run of a kernel.
func TestAnEngineOnAnUnknownMachineLeavesWhatIsKnown(t *testing.T) {
	here := &devices{name: "here", boot: "1", disk: "7"}
	r, _ := attachedOn(t, here)
	if err := r.fs.SyncDir("/"); err != nil { // the backing volume is durable
		t.Fatal(err)
	}
	here.boot, here.disk = "", "8"
	r.moveTo(here)
	r.resumed(1)
	write(t, here.attached(), 0, 1)
	cut := r.fs.KillClone().CrashWith(nil, vfs.CrashOptions{LoseAll: true})
	r.stop()
	r.fs, here.boot, here.disk = cut, "1", "9"
	r.start()
	r.resumed(1)
	here.expect(t, counts{made: 2, taken: 1, revoked: 1})
}

// An engine that dies before it has kept the identity of its new device has served it
// to nobody. The next one makes another, and that of the node before is not taken over
// for it.
func TestAnEngineDiesBeforeItKeepsItsDevice(t *testing.T) {
	here, elsewhere := &devices{name: "here"}, &devices{name: "elsewhere"}
	r, _ := attachedOn(t, here)
	elsewhere.dies = errors.New("killed")
	r.moveTo(elsewhere)
	if s, _ := r.pod.State(); s.Device != "" {
		t.Error("a device whose identity is not kept is served")
	}
	r.stop()
	elsewhere.dies = nil
	r.start()
	r.resumed(1)
	elsewhere.mu.Lock()
	made, revoked := elsewhere.made, elsewhere.revoked
	elsewhere.mu.Unlock()
	if made != revoked+1 {
		t.Errorf("%d devices were made, and %d that nobody had used went", made, revoked)
	}
	r.moveTo(here)
	r.resumed(1)
	here.expect(t, counts{made: 2, revoked: 1})
}

// A device that cannot be taken away, since somebody uses it, is the volume's still.
func TestADetachThatIsRefusedKeepsTheDevice(t *testing.T) {
	here := &devices{name: "here"}
	r, o := attachedOn(t, here)
	r.node.attached().busy = true
	replica := r.primary(2, 1)
	replica.Role, replica.Writable = control.Replica, false
	for _, without := range []control.Orders{r.primary(1, 2), replica} {
		if _, err := r.client.Order(ctx, without); !errors.Is(err, control.ErrDeviceInUse) {
			t.Fatalf("detach a device in use: %v, want ErrDeviceInUse", err)
		}
	}
	o.Term, o.Revision = 2, 2
	r.order(o)
	r.moveTo(here)
	r.resumed(2)
	here.expect(t, counts{made: 1, taken: 1})
}
