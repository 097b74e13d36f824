package site_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// TestADeviceIsTakenOverOnceItCanBe: an engine that has it at the start of the site, and
// goes, keeps the site from its device for no longer than that. I/O waits meanwhile.
func TestADeviceIsTakenOverOnceItCanBe(t *testing.T) {
	a, f := used(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := holder.Dial(a.ctx, a.socket())
	if err != nil {
		t.Fatal(err)
	}
	session, err := other.Attach(a.ctx, holder.AttachConfig{Volume: volumeA.String(), BlockBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	a.start()
	if v, err := a.Volume(volumeA); err != nil || !errors.Is(v.DeviceErr, holder.ErrLeased) || v.Device != "" || v.Err != nil {
		t.Errorf("the volume: %v, device %q, %v, %v, want ErrLeased", v.Err, v.Device, v.DeviceErr, err)
	}
	if err := a.exports.device(volumeA).WriteAt(a.ctx, make([]byte, 512), 0, false); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("a write beside the device that waits: %v, want ErrReadOnly", err)
	}
	read := make(chan error, 1)
	go func() {
		got, err := a.read(f)
		if err == nil && got != 2 {
			t.Errorf("the device holds %d, want 2", got)
		}
		read <- err
	}()
	if err := errors.Join(session.Conn.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Errorf("a read that waited: %v", err)
	}
	a.until("the device is taken over", func() bool {
		v, err := a.Volume(volumeA)
		return err == nil && v.Device == a.device && v.DeviceErr == nil
	})
	if err := a.write(f, 3); err != nil {
		t.Errorf("a write, over the same descriptor: %v", err)
	}
}

// kept is a site on a clock of its own, whose volume A has a device that the holder does not hand out.
type kept struct {
	*opened
	t     *testing.T
	clock *clock.Manual
	stub  *holderStub
}

func waiting(t *testing.T) *kept {
	t.Helper()
	mem := vfs.NewMem()
	mustClose(t, prepared(t, mem))
	k := &kept{t: t, clock: clock.NewManual(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)), stub: stubHolder(t, volumeA)}
	log.Reset()
	ex := &exports{}
	s, err := site.Open(t.Context(), site.Config{Name: "a", Root: "/root", FS: mem, Exports: ex, Holder: k.stub.client, Clock: k.clock,
		SegmentBytes: journal.MinSegmentBytes, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	k.opened = &opened{s, ex}
	<-k.stub.asked
	return k
}

// goOn lets time pass until something is so.
func (k *kept) goOn(is func() bool) {
	k.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
			k.clock.Advance(time.Second)
		case <-k.t.Context().Done():
			k.t.Fatal("in vain")
		}
	}
}

// attempts lets time pass until the holder has been asked so often.
func (k *kept) attempts(n int) {
	k.t.Helper()
	for range n {
		k.goOn(func() bool {
			select {
			case <-k.stub.asked:
				return true
			default:
				return false
			}
		})
	}
}

func (k *kept) deviceErr() error {
	k.t.Helper()
	v, err := k.Volume(volumeA)
	if err != nil {
		k.t.Fatal(err)
	}
	return v.DeviceErr
}

// TestADeviceThatWaitsIsTold in the volume's state all the time, and in the log when it
// begins to wait and when the reason changes.
func TestADeviceThatWaitsIsTold(t *testing.T) {
	k := waiting(t)
	k.attempts(4)
	if err := k.deviceErr(); !errors.Is(err, holder.ErrLeased) {
		t.Errorf("the device: %v, want ErrLeased", err)
	}
	if _, err := k.Device(volumeA); !errors.Is(err, site.ErrNotFound) || !errors.Is(err, holder.ErrLeased) {
		t.Errorf("its path: %v, want ErrNotFound and ErrLeased", err)
	}
	k.stub.set(func() { k.stub.refusal = "full" })
	k.attempts(4)
	k.goOn(func() bool { return errors.Is(k.deviceErr(), holder.ErrFull) })
	mustClose(t, k.opened)
	for text, want := range map[string]int{"device could not be taken over": 1, "device still cannot be taken over": 1} {
		if got := strings.Count(log.String(), text); got != want {
			t.Errorf("%q is in the log %d times, want %d:\n%s", text, got, want, log.String())
		}
	}
}

// TestASiteEndsWhileADeviceWaits, also in the midst of an attempt that is not answered.
func TestASiteEndsWhileADeviceWaits(t *testing.T) {
	k := waiting(t)
	k.stub.set(func() { k.stub.refusal = "" })
	k.attempts(1)
	began := time.Now()
	mustClose(t, k.opened)
	if took := time.Since(began); took > holder.DefaultCallTimeout/2 {
		t.Errorf("it took %v, as if the call was waited for", took)
	}
}

// TestADetachEndsTheWaiting, and nothing is tried any more.
func TestADetachEndsTheWaiting(t *testing.T) {
	k := waiting(t)
	if err := k.Detach(context.Background(), volumeA); err != nil {
		t.Fatal(err)
	}
	if err := k.deviceErr(); err != nil {
		t.Errorf("the device of a volume that was detached: %v", err)
	}
	if _, err := k.Groups().StartRewind(context.Background(), "shop", "pin:before", false); err != nil {
		t.Errorf("rewind: %v", err)
	}
	mustClose(t, k.opened)
}

// TestADeviceThatWaitsMayBeGone, taken away at the holder by somebody else.
func TestADeviceThatWaitsMayBeGone(t *testing.T) {
	k := waiting(t)
	k.stub.set(func() { k.stub.kept = nil })
	k.goOn(func() bool { return k.deviceErr() == nil })
	mustClose(t, k.opened)
}

// TestADeviceThatWaitsIsInUse: what the kernel keeps of it must not meet another state.
func TestADeviceThatWaitsIsInUse(t *testing.T) {
	k := waiting(t)
	if _, err := k.Groups().StartRewind(context.Background(), "shop", "pin:before", false); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("rewind: %v, want ErrInUse", err)
	}
	mustClose(t, k.opened)
}

// TestToolsChangeNothingWhileAVolumeIsReopened: its device stays with the holder, mounted
// perhaps, and the store admits changes before the device is served again.
func TestToolsChangeNothingWhileAVolumeIsReopened(t *testing.T) {
	mem := vfs.NewMem()
	mustClose(t, prepared(t, mem))
	fault, stub, ex := vfs.NewFault(mem), stubHolder(t, volumeA), &exports{}
	device := stub.kept
	stub.set(func() { stub.kept = nil })
	s, err := site.Open(t.Context(), site.Config{Name: "a", Root: "/root", FS: fault, Exports: ex, Holder: stub.client, SegmentBytes: journal.MinSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, &opened{s, ex})
	write := func() error { return ex.device(volumeA).WriteAt(t.Context(), make([]byte, 512), 0, true) }
	if err := write(); err != nil {
		t.Fatalf("before there is a device: %v", err)
	}
	fault.FailFrom(fault.Count(vfs.OpWriteVec)+1, errors.New("disk says no"), vfs.OpWriteVec)
	if err := write(); !errors.Is(err, engine.ErrPoisoned) {
		t.Fatalf("the volume is not poisoned: %v", err)
	}
	fault.Mend()
	stub.set(func() { stub.kept, stub.refusal = device, "" })
	reopening, cancel := context.WithCancel(t.Context())
	defer cancel()
	reopened := make(chan error, 1)
	go func() {
		_, err := s.ReopenVolume(reopening, volumeA)
		reopened <- err
	}()
	<-stub.asked
	if err := write(); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("a write while the device is taken over: %v, want ErrReadOnly", err)
	}
	cancel()
	if err := <-reopened; !errors.Is(err, context.Canceled) {
		t.Errorf("reopen: %v, want that its caller gave up", err)
	}
	if err := write(); !errors.Is(err, engine.ErrReadOnly) {
		t.Errorf("a write beside the device that waits: %v, want ErrReadOnly", err)
	}
}
