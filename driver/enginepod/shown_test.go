package enginepod_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// tools keeps what an engine shows to tools.
type tools struct{ devices sync.Map }

func (s *tools) Add(name string, dev engine.Device, _ string) error {
	s.devices.Store(name, dev)
	return nil
}

func (s *tools) Remove(_ context.Context, name string) error {
	s.devices.Delete(name)
	return nil
}

// write is a tool's write to the live volume.
func (s *tools) write(r *rig) error {
	dev, ok := s.devices.Load(r.id.String())
	if !ok {
		return errors.New("the volume is not shown")
	}
	return dev.(engine.Device).WriteAt(ctx, make([]byte, 512), 0, false)
}

// A volume is mounted, and its engine is replaced. Until the next one has taken the
// device over it is not the device's, and admits changes already: tools must make none,
// since whoever has the volume mounted would not know.
func TestToolsWriteToNoVolumeWhoseDeviceWaits(t *testing.T) {
	here, shown := &devices{name: "here"}, &tools{}
	r := newRig(t, newNetwork(), 1)
	r.shown = shown
	r.moveTo(here)
	r.order(r.primary(1, 1))
	if err := shown.write(r); err != nil {
		t.Fatalf("before there is a device: %v", err)
	}
	refused := func(when string) {
		t.Helper()
		if err := shown.write(r); !errors.Is(err, engine.ErrReadOnly) {
			t.Errorf("%s: %v, want ErrReadOnly", when, err)
		}
	}
	tried := make(chan struct{}, 1)
	here.edit(func(d *devices) {
		d.asked = func() {
			refused("while the device is attached")
			select {
			case tried <- struct{}{}:
			default:
			}
		}
	})
	o := r.primary(1, 2)
	o.Attach = &control.Attach{BlockBytes: 512}
	r.order(o)
	refused("with the device")
	<-tried

	here.edit(func(d *devices) { d.fail = errors.New("the engine before has not ended") })
	r.stop()
	r.start()
	<-tried
	refused("while the device waits")

	// An engine of before has left it, and the volume is to have none: it is not known
	// yet who uses it.
	if _, err := r.client.Order(ctx, r.primary(1, 3)); err == nil {
		t.Fatal("the volume is detached, and its device waits")
	}
	refused("while the device cannot be taken away")
	here.edit(func(d *devices) { d.fail = nil })
	r.order(r.primary(1, 4))
	if err := shown.write(r); err != nil {
		t.Errorf("once the device is taken away: %v", err)
	}
}

// A tool's write is on its way to the journal when a device is ordered: the device comes
// after it, or the write would change what is mounted by then.
func TestADeviceComesAfterWhatToolsWrite(t *testing.T) {
	here, shown := &devices{name: "here"}, &tools{}
	r := newRig(t, newNetwork(), 1)
	slow := &slowFS{FS: r.fs, entered: make(chan struct{}), release: make(chan struct{})}
	r.shown, r.files = shown, slow
	r.moveTo(here)
	r.order(r.primary(1, 1))
	if err := shown.write(r); err != nil { // makes the segment
		t.Fatal(err)
	}
	slow.armed.Store(true)
	written := make(chan error, 1)
	go func() { written <- shown.write(r) }()
	<-slow.entered
	o := r.primary(1, 2)
	o.Attach = &control.Attach{BlockBytes: 512}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := r.client.Order(short, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("attached beside a write of a tool: %v, want a time-out", err)
	}
	if here.attached() != nil {
		t.Error("there is a device beside a write of a tool")
	}
	close(slow.release)
	if err := <-written; err != nil {
		t.Errorf("the write: %v", err)
	}
	r.order(o)
	if here.attached() == nil {
		t.Error("there is no device after the write")
	}
}

// slowFS holds one append up when it is armed.
type slowFS struct {
	vfs.FS
	armed            atomic.Bool
	entered, release chan struct{}
}

func (s *slowFS) Create(name string) (vfs.File, error) {
	f, err := s.FS.Create(name)
	return &slowFile{f, s}, err
}

type slowFile struct {
	vfs.File
	fs *slowFS
}

func (f *slowFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	if f.fs.armed.CompareAndSwap(true, false) {
		close(f.fs.entered)
		<-f.fs.release
	}
	return f.File.WriteVecAt(bufs, off)
}
