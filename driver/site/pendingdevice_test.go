package site_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
)

// TestADeviceWaitsForItsGroupsOperation: a rewind was interrupted, and at the next start it
// cannot be finished, because another member does not open. The device is not served before
// it is, nor can it be attached: its writes would fail, and what is read of it would be
// kept, while its volume is about to hold something else.
func TestADeviceWaitsForItsGroupsOperation(t *testing.T) {
	a := attach(t)
	f := a.open()
	if err := errors.Join(a.write(f, 1), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Groups().TakePoint(a.ctx, "shop", "before"); err != nil {
		t.Fatal(err)
	}
	f = a.open()
	if err := errors.Join(a.write(f, 2), f.Close()); err != nil {
		t.Fatal(err)
	}
	begun := false
	fail := func() { // what is behind the first change, which begins the rewind
		if begun {
			a.tails.commits.Store(true)
		}
		begun = true
	}
	a.tails.committing.Store(&fail)
	_, err := a.Groups().StartRewind(a.ctx, "shop", "pin:before", false)
	a.tails.committing.Store(nil)
	if st, failed := a.Groups().State("shop"); err == nil || failed != nil || st.Pending == nil {
		t.Fatalf("the rewind was not interrupted: %v; %+v, %v", err, st.Pending, failed)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.tails.commits.Store(false)
	base := filepath.Join(a.root, "volumes", volumeB.String(), "store-1", "base.img")
	if err := os.Rename(base, base+".away"); err != nil {
		t.Fatal(err)
	}
	a.start()
	if device, err := a.Device(volumeA); !errors.Is(err, site.ErrNotFound) {
		t.Errorf("the device %s is served in the middle of a rewind: %v", device, err)
	}
	if device, err := a.Attach(a.ctx, volumeA, 512, false); !errors.Is(err, group.ErrBusy) {
		t.Errorf("attached as %s in the middle of a rewind: %v, want ErrBusy", device, err)
	}
	if err := os.Rename(base+".away", base); err != nil {
		t.Fatal(err)
	}
	if _, err := a.ReopenVolume(a.ctx, volumeB); err != nil {
		t.Fatal(err)
	}
	a.until("the device is served", func() bool {
		device, err := a.Device(volumeA)
		return err == nil && device == a.device
	})
	f = a.open()
	if got, err := a.read(f); err != nil || got != 1 {
		t.Errorf("the device holds %d after the rewind (%v), want 1", got, err)
	}
	if err := errors.Join(a.write(f, 3), f.Close()); err != nil {
		t.Errorf("a write after the rewind: %v", err)
	}
}
