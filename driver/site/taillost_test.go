package site_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

var errDisk = errors.New("the disk fails")

// tailFault is a file system on which, from a moment on, segments of journals cannot be
// synced that were appended to, or that have just been opened.
type tailFault struct {
	vfs.FS
	appends, opens atomic.Bool
	commits        atomic.Bool            // the site's database fails, too
	committing     atomic.Pointer[func()] // called before each change of the site's database
}

func (f *tailFault) OpenDB(name string) (kv.DB, error) {
	db, err := f.FS.OpenDB(name)
	return commitFault{db, f}, err
}

type commitFault struct {
	kv.DB
	of *tailFault
}

func (d commitFault) Update(fn func(kv.Tx) error) error {
	if d.of.commits.Load() {
		return errDisk
	}
	if call := d.of.committing.Load(); call != nil {
		(*call)()
	}
	return d.DB.Update(fn)
}

func (f *tailFault) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	return f.wrap(name, file, err)
}

func (f *tailFault) Open(name string) (vfs.File, error) {
	file, err := f.FS.Open(name)
	return f.wrap(name, file, err)
}

func (f *tailFault) wrap(name string, file vfs.File, err error) (vfs.File, error) {
	if err != nil || !strings.HasSuffix(name, ".seg") {
		return file, err
	}
	return &tailFaultFile{File: file, of: f}, nil
}

type tailFaultFile struct {
	vfs.File
	of       *tailFault
	appended atomic.Bool
}

func (f *tailFaultFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	f.appended.Store(true)
	return f.File.WriteVecAt(bufs, off)
}

func (f *tailFaultFile) Sync() error {
	if f.of.appends.Load() && f.appended.Load() || f.of.opens.Load() {
		return errDisk
	}
	return f.File.Sync()
}

// used is an attached site whose device somebody has open, with a write that was
// flushed, 1, and one that was only acknowledged, 2.
func used(t *testing.T) (a *attached, f *os.File) {
	t.Helper()
	a = attach(t)
	f = a.open()
	t.Cleanup(func() { _ = f.Close() })
	if err := a.write(f, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(a.page(2), 0); err != nil {
		t.Fatal(err)
	}
	return a, f
}

// begunAnew makes sure that a device is gone for who has it open, and that there is
// another one that works.
func (a *attached) begunAnew(old *os.File) {
	a.t.Helper()
	if got, err := a.read(old); err == nil {
		a.t.Errorf("the old device is read: %d", got)
	}
	if err := a.write(old, 8); err == nil {
		a.t.Error("the old device takes a write and flushes it")
	}
	device, err := a.Device(volumeA)
	if err != nil || device == a.device {
		a.t.Fatalf("the device is %q, %v, and was %s: want a new one", device, err, a.device)
	}
	v, err := a.Volume(volumeA)
	if err != nil || v.Err != nil || v.DeviceErr != nil {
		a.t.Errorf("the volume is not well: %v, %v, %v", v.Err, v.DeviceErr, err)
	}
	a.device = device
	f := a.open()
	defer f.Close()
	if got, err := a.read(f); err != nil || got != 1 && got != 2 {
		a.t.Errorf("the new device holds %d, %v; what was flushed is lost", got, err)
	}
	if err := a.write(f, 3); err != nil {
		a.t.Errorf("write to the new device: %v", err)
	}
	if got, err := a.read(f); err != nil || got != 3 {
		a.t.Errorf("the new device holds %d, %v, want 3", got, err)
	}
}

// A sync that fails takes acknowledged writes with it. Who has the device open is told,
// by errors, and not shown what is left.
func TestADeviceIsTakenAwayAfterASyncThatFailed(t *testing.T) {
	a, f := used(t)
	a.tails.appends.Store(true)
	if err := f.Sync(); err == nil {
		t.Fatal("a flush succeeded that cannot have")
	}
	a.tails.appends.Store(false)
	a.until("the device is taken away", func() bool {
		v, err := a.Volume(volumeA)
		return err == nil && v.Device == "" && v.DeviceErr != nil
	})
	if kept, err := a.client.List(a.ctx); err != nil || len(kept) != 0 {
		t.Errorf("the holder keeps %v, %v", kept, err)
	}
	if _, err := a.read(f); err == nil {
		t.Error("the device is read")
	}
	if _, err := a.Attach(a.ctx, volumeA, 512, false); !errors.Is(err, journal.ErrTailLost) {
		t.Errorf("attach before the volume is reopened: %v, want ErrTailLost", err)
	}
	if done, err := a.ReopenVolume(a.ctx, volumeA); !done || err != nil {
		t.Fatalf("reopen: %v, %v", done, err)
	}
	a.begunAnew(f)
}

// until waits for what comes by itself.
func (a *attached) until(what string, is func() bool) {
	a.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			a.t.Fatalf("in vain: %s\n%s", what, log.String())
		}
	}
}

// A journal that fails as the site ends has no device any more, which waits for the next
// start by then.
func TestADeviceIsNotTakenOverAfterASyncThatFailedAtTheEnd(t *testing.T) {
	a, f := used(t)
	a.tails.appends.Store(true)
	_ = a.Close() // its journal has failed
	a.tails.appends.Store(false)
	a.start()
	a.begunAnew(f)
}

// The same of a site that was killed before it could know: the next start meets the
// failure when it syncs what it finds, and only then.
func TestADeviceIsNotTakenOverAfterASyncThatFailedAtTheStart(t *testing.T) {
	a, f := used(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.tails.opens.Store(true)
	a.start()
	if v, err := a.Volume(volumeA); err != nil || !errors.Is(v.Err, journal.ErrTailLost) || v.DeviceErr == nil {
		t.Fatalf("the volume: %v, %v, %v, want ErrTailLost", v.Err, v.DeviceErr, err)
	}
	a.tails.opens.Store(false)
	if _, err := a.read(f); err == nil {
		t.Error("the device is read while its volume is not open")
	}
	if done, err := a.ReopenVolume(a.ctx, volumeA); !done || err != nil {
		t.Fatalf("reopen: %v, %v", done, err)
	}
	a.begunAnew(f)
}

// A site that was killed when it had noted the failure, and before the device was gone.
func TestADeviceThatWasLostIsTakenAwayAtTheNextStart(t *testing.T) {
	a, f := used(t)
	noted := fmt.Sprintf(`{"BlockBytes":512,"At":%q}`, time.Now().Format(time.RFC3339))
	err := a.Database().Update(func(tx kv.Tx) error { return tx.Put("lost-devices", volumeA[:], []byte(noted)) })
	if err = errors.Join(err, a.Close()); err != nil {
		t.Fatal(err)
	}
	a.start()
	a.begunAnew(f)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.start() // once is enough
	if device, err := a.Device(volumeA); err != nil || device != a.device {
		t.Errorf("the device after another start is %q, %v, want %s", device, err, a.device)
	}
}

// Nothing can be noted on a disk that takes no write: that the device is gone is enough.
func TestADeviceIsTakenAwayThoughNothingCanBeNoted(t *testing.T) {
	a, f := used(t)
	a.tails.commits.Store(true)
	a.tails.appends.Store(true)
	if err := f.Sync(); err == nil {
		t.Fatal("a flush succeeded that cannot have")
	}
	a.until("the device is taken away", func() bool {
		kept, err := a.client.List(a.ctx)
		return err == nil && len(kept) == 0
	})
	if _, err := a.read(f); err == nil {
		t.Error("the device is read")
	}
	a.tails.commits.Store(false)
}

// A volume that lost its device can be detached, and then has nothing to begin anew.
func TestDetachOfALostDevice(t *testing.T) {
	a, f := used(t)
	a.tails.appends.Store(true)
	if err := f.Sync(); err == nil {
		t.Fatal("a flush succeeded that cannot have")
	}
	a.tails.appends.Store(false)
	a.until("the device is taken away", func() bool {
		v, err := a.Volume(volumeA)
		return err == nil && v.Device == ""
	})
	if err := a.Detach(a.ctx, volumeA); err != nil {
		t.Fatal(err)
	}
	if v, err := a.Volume(volumeA); err != nil || v.DeviceErr != nil {
		t.Errorf("a detached volume has device trouble: %v, %v", v.DeviceErr, err)
	}
	if done, err := a.ReopenVolume(a.ctx, volumeA); !done || err != nil {
		t.Fatalf("reopen: %v, %v", done, err)
	}
	if kept, err := a.client.List(a.ctx); err != nil || len(kept) != 0 {
		t.Errorf("the holder keeps %v, %v", kept, err)
	}
}
