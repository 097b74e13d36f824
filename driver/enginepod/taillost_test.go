package enginepod_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/engine/lease"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

var errDisk = errors.New("the disk fails")

// syncFault is a file system on which, from a moment on, files that were appended to
// cannot be synced.
type syncFault struct {
	vfs.FS
	failing atomic.Bool
}

func (f *syncFault) Create(name string) (vfs.File, error) { return f.wrap(f.FS.Create(name)) }
func (f *syncFault) Open(name string) (vfs.File, error)   { return f.wrap(f.FS.Open(name)) }

func (f *syncFault) wrap(file vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &syncFaultFile{File: file, of: f}, nil
}

type syncFaultFile struct {
	vfs.File
	of       *syncFault
	appended atomic.Bool
}

func (f *syncFaultFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	f.appended.Store(true)
	return f.File.WriteVecAt(bufs, off)
}

func (f *syncFaultFile) Sync() error {
	if f.appended.Load() && f.of.failing.Load() {
		return errDisk
	}
	return f.File.Sync()
}

// failingRig is an engine that serves its device, and whose disk can fail.
func failingRig(t *testing.T, here *devices) (r *rig, syncs *syncFault) {
	t.Helper()
	r = newRig(t, newNetwork(), 1)
	r.stop()
	r.faults = vfs.NewFault(r.fs)
	syncs = &syncFault{FS: r.faults}
	r.files, r.node = syncs, here
	r.start()
	o := r.primary(1, 1)
	o.Attach = &control.Attach{BlockBytes: 512}
	r.order(o)
	write(t, here.attached(), 0, 1)
	return r, syncs
}

// replaced ends an engine whose journal has failed, and starts one on a sound disk.
func (r *rig) replaced() {
	r.t.Helper()
	_ = r.end() // its journal has failed
	r.faults, r.files = nil, nil
	r.start()
	r.resumed(1)
}

// A sync that fails takes acknowledged writes with it that nobody has flushed yet. The
// next engine has the journal without them, and its flushes succeed: so it must not take
// the device over, on which they count as written.
func TestADeviceIsNotTakenOverAfterASyncThatFailed(t *testing.T) {
	for name, set := range map[string]func(r *rig){
		"the node lets the device go":             func(*rig) {},
		"and the node does not let the device go": func(r *rig) { r.node.stuck = errDisk },
		"and nothing can be written any more":     func(r *rig) { r.faults.FailFrom(r.faults.Count(vfs.OpCommit)+1, errDisk, vfs.OpCommit) },
	} {
		t.Run(name, func(t *testing.T) {
			here := &devices{name: "here"}
			r, syncs := failingRig(t, here)
			set(r)
			syncs.failing.Store(true)
			if err := here.attached().Flush(ctx); !errors.Is(err, engine.ErrPoisoned) {
				t.Fatalf("flush: %v, want ErrPoisoned", err)
			}
			if err := <-r.pod.Fatal(); !errors.Is(err, journal.ErrPoisoned) {
				t.Fatalf("the process ends with %v, want ErrPoisoned", err)
			}
			r.replaced()
			here.expect(t, counts{made: 2, revoked: 1})
			r.moveTo(here)
			r.resumed(1)
			here.expect(t, counts{made: 2, taken: 1, revoked: 1})
		})
	}
}

// A file system that fails, as one does whose disk is away for a moment, fails the next write
// or commit. It has to be mounted again, and has lost what it had not written then, which
// nobody meets any more: so the engine finds out before it ends.
func TestADeviceIsNotTakenOverAfterItsFileSystemFailed(t *testing.T) {
	for name, more := range map[string][]vfs.Op{"and notes it": nil, "and nothing can be written any more": {vfs.OpCommit}} {
		t.Run(name, func(t *testing.T) {
			here := &devices{name: "here", boot: "1", disk: "7"}
			r, syncs := failingRig(t, here)
			syncs.failing.Store(true)
			r.faults.FailAfter(1, errDisk, vfs.OpWriteVec)
			for _, op := range more {
				r.faults.FailFrom(r.faults.Count(op)+1, errDisk, op)
			}
			if err := here.attached().WriteAt(ctx, make([]byte, 512), 512, false); !errors.Is(err, engine.ErrPoisoned) {
				t.Fatalf("write: %v, want ErrPoisoned", err)
			}
			if err := <-r.pod.Fatal(); !errors.Is(err, journal.ErrPoisoned) {
				t.Fatalf("the process ends with %v, want ErrPoisoned", err)
			}
			r.replaced()
			here.expect(t, counts{made: 2, revoked: 1})
		})
	}
}

// A journal that fails as it is closed has no device any more, which waits for the next
// engine by then.
func TestADeviceIsNotTakenOverAfterASyncThatFailsAtTheEnd(t *testing.T) {
	here := &devices{name: "here"}
	r, syncs := failingRig(t, here)
	if err := here.attached().Flush(ctx); err != nil { // so that only closing syncs
		t.Fatal(err)
	}
	syncs.failing.Store(true)
	r.replaced()
	here.expect(t, counts{made: 2, revoked: 1})
}

// The same of an engine that was killed before it could know: the next one meets the
// failure when it syncs what it finds, and only then.
func TestADeviceIsNotTakenOverAfterASyncThatFailsAtTheNextStart(t *testing.T) {
	for name, more := range map[string][]vfs.Op{"once": nil, "and nothing can be written for a while": {vfs.OpCommit}} {
		t.Run(name, func(t *testing.T) {
			here := &devices{name: "here"}
			r, _ := attachedOn(t, here)
			write(t, here.attached(), 0, 1)
			killed := r.fs.KillClone()
			r.stop()
			r.fs, r.faults = killed, vfs.NewFault(killed)
			r.files = r.faults
			r.faults.FailAt(1, errDisk, vfs.OpSync)
			for _, op := range more {
				r.faults.FailAt(1, errDisk, op)
			}
			r.start()
			r.resumed(1)
			if r.faults.Count(vfs.OpSync) == 0 {
				t.Fatal("nothing was synced")
			}
			here.expect(t, counts{made: 2, revoked: 1})
		})
	}
}

// An engine that has lost its lease may not sync any more, whatever it has in its journal.
// That is not a disk that failed: an engine that follows on this machine finds it all, and
// one elsewhere has a device of its own.
func TestADeviceIsTakenOverAfterASyncThatTheLeaseRefused(t *testing.T) {
	for name, act := range map[string]func(d *device) error{
		"a flush":    func(d *device) error { return d.Flush(ctx) },
		"a write":    func(d *device) error { return d.WriteAt(ctx, make([]byte, 512), 512, false) },
		"at the end": func(*device) error { return engine.ErrPoisoned },
	} {
		t.Run(name, func(t *testing.T) {
			here := &devices{name: "here"}
			r := newRig(t, newNetwork(), 1)
			r.stop()
			var lost atomic.Bool
			r.node, r.files = here, vfs.Gated{FS: r.fs, Pass: func() error {
				if lost.Load() {
					return lease.ErrLost
				}
				return nil
			}}
			r.start()
			o := r.primary(1, 1)
			o.Attach = &control.Attach{BlockBytes: 512}
			r.order(o)
			write(t, here.attached(), 0, 1)
			lost.Store(true)
			if err := act(here.attached()); !errors.Is(err, engine.ErrPoisoned) {
				t.Fatalf("%v, want ErrPoisoned", err)
			}
			r.replaced()
			here.expect(t, counts{made: 1, taken: 1})
			expect(t, here.attached(), 0, 1)
		})
	}
}

// An error that takes nothing with it costs nobody the device.
func TestADeviceIsTakenOverAfterAnErrorThatLosesNothing(t *testing.T) {
	here := &devices{name: "here"}
	r, _ := failingRig(t, here)
	r.faults.FailAfter(1, errDisk, vfs.OpWriteVec)
	if err := here.attached().WriteAt(ctx, make([]byte, 512), 512, false); !errors.Is(err, engine.ErrPoisoned) {
		t.Fatalf("write: %v, want ErrPoisoned", err)
	}
	if err := <-r.pod.Fatal(); !errors.Is(err, journal.ErrPoisoned) {
		t.Fatalf("the process ends with %v, want ErrPoisoned", err)
	}
	r.replaced()
	here.expect(t, counts{made: 1, taken: 1})
	expect(t, here.attached(), 0, 1)
}
