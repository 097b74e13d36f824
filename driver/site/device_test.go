package site_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
	"github.com/lockstep-csi/lockstep/replication"
)

// attached is a site whose volume A is a block device of this machine.
type attached struct {
	*opened
	t      *testing.T
	ctx    context.Context
	fault  *vfs.Fault
	tails  *tailFault // over fault; what the site's files are in
	root   string
	device string

	client    *holder.Client
	transport fuse.Transport
}

// attach makes a site below a temporary directory, with a holder of its own.
func attach(t *testing.T) *attached {
	t.Helper()
	return attachOver(t, "")
}

// attachOver is attach with a wish for a transport.
func attachOver(t *testing.T, transport fuse.Transport) *attached {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not tested: a store that is replaced under its block device; needs root")
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("not tested: a store that is replaced under its block device; needs %s: %v", path, err)
		}
		_ = f.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	a := &attached{t: t, ctx: ctx, fault: vfs.NewFault(vfs.OS{}), root: t.TempDir(), transport: transport}
	a.tails = &tailFault{FS: a.fault}
	a.client = a.startHolder()
	a.start()
	// I/O that waits for ever, in a test that fails, would keep the process from ending.
	free := context.AfterFunc(ctx, func() { _ = a.client.Detach(context.Background(), volumeA.String(), true) })
	t.Cleanup(func() {
		free()
		if err := errors.Join(a.Detach(ctx, volumeA), a.Close(), a.client.Close()); err != nil {
			t.Error(err)
		}
	})
	for _, id := range members {
		if err := a.create(id, nil); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if a.device, err = a.Attach(ctx, volumeA, 512, false); err != nil {
		t.Fatal(err)
	}
	return a
}

// start opens the site, whose devices the holder keeps.
func (a *attached) start() {
	a.t.Helper()
	log.Reset()
	ex := &exports{}
	s, err := site.Open(a.ctx, site.Config{Name: "a", Root: a.root, FS: a.tails, Exports: ex, Holder: a.client, Transport: a.transport,
		SegmentBytes: journal.MinSegmentBytes, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		a.t.Fatal(err)
	}
	a.opened = &opened{s, ex}
}

// socket is the holder's.
func (a *attached) socket() string { return filepath.Join(a.root, "holder.sock") }

func (a *attached) startHolder() *holder.Client {
	a.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	socket, ended := a.socket(), make(chan error, 1)
	go func() {
		ended <- holder.Run(ctx, holder.Config{Socket: socket, Dir: filepath.Join(a.root, "devices"), IdleTimeout: -1})
	}()
	a.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			a.t.Error(err)
		}
	})
	for {
		client, err := holder.Dial(a.ctx, socket)
		if err == nil {
			return client
		}
		select {
		case err := <-ended:
			a.t.Fatalf("holder: %v", err)
		case <-a.ctx.Done():
			a.t.Fatal(err)
		case <-time.After(time.Millisecond): // until its socket is there
		}
	}
}

// open opens the device so that the kernel keeps nothing of it.
func (a *attached) open() *os.File {
	a.t.Helper()
	f, err := os.OpenFile(a.device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	return f
}

// page is memory that direct I/O takes.
func (a *attached) page(fill byte) []byte {
	a.t.Helper()
	p, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = unix.Munmap(p) })
	copy(p, bytes.Repeat([]byte{fill}, len(p)))
	return p
}

func (a *attached) write(f *os.File, fill byte) error {
	a.t.Helper()
	_, err := f.WriteAt(a.page(fill), 0)
	return errors.Join(err, f.Sync())
}

func (a *attached) read(f *os.File) (byte, error) {
	a.t.Helper()
	p := a.page(0xff)
	_, err := f.ReadAt(p, 0)
	return p[0], err
}

// TestReopenUnderADevice: the device of a volume that is reopened stays, where nothing
// is lost that its users count on; its
// I/O waits for as long as the store is not open, and then goes on.
func TestReopenUnderADevice(t *testing.T) {
	a := attach(t)
	f := a.open()
	defer f.Close()
	if err := a.write(f, 1); err != nil {
		t.Fatal(err)
	}
	a.fault.FailAfter(1, errors.New("disk says no"), vfs.OpWriteVec)
	if err := a.write(f, 2); err == nil {
		t.Fatal("a write was acknowledged that failed")
	}
	base := filepath.Join(a.root, "volumes", volumeA.String(), "store-1", "base.img")
	if err := os.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.ReopenVolume(a.ctx, volumeA); err == nil {
		t.Fatal("a store without its base was opened")
	}
	type outcome struct {
		value byte
		err   error
	}
	waiting := make(chan outcome, 1)
	go func() {
		value, err := a.read(f)
		waiting <- outcome{value, err}
	}()
	if err := os.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	if done, err := a.ReopenVolume(a.ctx, volumeA); !done || err != nil {
		t.Fatalf("reopen: %v, %v", done, err)
	}
	if got := <-waiting; got.err != nil || got.value != 1 && got.value != 2 {
		t.Errorf("a read that waited got %d, %v", got.value, got.err)
	}
	if err := a.write(f, 3); err != nil {
		t.Errorf("write after the reopen, over the same descriptor: %v", err)
	}
	if device, err := a.Device(volumeA); err != nil || device != a.device {
		t.Errorf("the device is %s, %v, and was %s", device, err, a.device)
	}
	if got, err := a.read(f); err != nil || got != 3 {
		t.Errorf("the device holds %d, %v, want 3", got, err)
	}
}

// TestDetachOfAVolumeThatDoesNotOpen: nobody is left with a device that waits
// for ever.
func TestDetachOfAVolumeThatDoesNotOpen(t *testing.T) {
	a := attach(t)
	f := a.open()
	a.fault.FailAfter(1, errors.New("disk says no"), vfs.OpWriteVec)
	if err := a.write(f, 2); err == nil {
		t.Fatal("a write was acknowledged that failed")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(a.root, "volumes", volumeA.String(), "store-1", "base.img")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.ReopenVolume(a.ctx, volumeA); err == nil {
		t.Fatal("a store without its base was opened")
	}
	if err := a.DeleteVolume(a.ctx, volumeA); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("delete of a volume whose device is kept: %v, want ErrInUse", err)
	}
	if err := a.Detach(a.ctx, volumeA); err != nil {
		t.Fatal(err)
	}
	if err := a.DeleteVolume(a.ctx, volumeA); err != nil {
		t.Errorf("delete after the detach: %v", err)
	}
}

// TestAnImageUnderADevice: a site that was demoted with a device attached is
// filled again nevertheless, and the device shows what came.
func TestAnImageUnderADevice(t *testing.T) {
	a := attach(t)
	f := a.open()
	defer f.Close()
	if err := a.write(f, 1); err != nil {
		t.Fatal(err)
	}
	demoted(t, a.opened)
	spec := replication.ImageSpec{Volume: volumeA, SizeBytes: 2 * volumeBytes, At: journal.Position{Timeline: 99, Seq: 7}, Timelines: []journal.Timeline{{ID: 99, Reason: "created"}}}
	im, err := a.Replicas().Import(a.ctx, "shop", spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.WriteAt(bytes.Repeat([]byte{9}, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Commit(a.ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := a.read(f); err != nil || got != 9 {
		t.Errorf("the device holds %d, %v, want 9", got, err)
	}
	if size, err := f.Seek(0, 2); err != nil || size != 2*volumeBytes {
		t.Errorf("the device has %d bytes, %v, want %d", size, err, 2*volumeBytes)
	}
	if err := a.write(f, 4); err == nil {
		t.Error("a replica's device took a write")
	}
}

// TestTransportIsTold: a site that wishes for io_uring says of each device whether
// it has it, and why not; one that does not wish has nothing to say.
func TestTransportIsTold(t *testing.T) {
	plain := attach(t)
	v, err := plain.Volume(volumeA)
	if err != nil || v.Transport != fuse.TransportDevice || v.Fallback != nil {
		t.Errorf("without a wish: %s, fallback %v, %v", v.Transport, v.Fallback, err)
	}
	wishing := attachOver(t, fuse.TransportRing)
	v, err = wishing.Volume(volumeA)
	if err != nil || v.Transport != fuse.TransportRing && v.Fallback == nil || v.Transport == fuse.TransportRing && v.Fallback != nil {
		t.Errorf("with one: %s, fallback %v, %v", v.Transport, v.Fallback, err)
	}
}
