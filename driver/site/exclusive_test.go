package site_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/driver/groups"
)

// mount opens the device as who mounts it does.
func (a *attached) mount() (*os.File, error) {
	return os.OpenFile(a.device, os.O_RDONLY|unix.O_EXCL, 0)
}

// Nobody can mount a device between the moment in which a rewind has seen that it is not
// in use and the one in which its volume holds something else: what a kernel has of the one
// would be written over the other.
func TestNobodyMountsADeviceWhileItsVolumeIsRewound(t *testing.T) {
	a := attach(t)
	f := a.open()
	if err := a.write(f, 1); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p, _, err := a.Groups().TakePoint(a.ctx, "shop", "before")
	if err != nil {
		t.Fatal(err)
	}
	if f, err = a.mount(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Groups().StartRewind(a.ctx, "shop", "pin:before", false); !errors.Is(err, groups.ErrInUse) {
		t.Fatalf("rewind to %v under a mount: %v, want ErrInUse", p, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f = a.open(); a.write(f, 2) != nil { // the rewind that was refused has left the volume writable
		t.Fatal("a write is refused after a rewind that was refused")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	a.notHadMeanwhile(t, "a rewind", func() error {
		_, err := a.Groups().StartRewind(a.ctx, "shop", "pin:before", false)
		return err
	})
}

// notHadMeanwhile checks that nobody can mount the device while an operation goes back to
// a point that holds 1, and that it can be had, and holds that, afterwards.
func (a *attached) notHadMeanwhile(t *testing.T, what string, operate func() error) {
	t.Helper()
	var mu sync.Mutex        // members fork at once
	var seen strings.Builder // of each change of a database: - refused, + had
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		switch f, err := a.mount(); {
		case err == nil:
			seen.WriteByte('+')
			_ = f.Close()
		case errors.Is(err, unix.EBUSY):
			seen.WriteByte('-')
		default:
			t.Errorf("open the device: %v", err)
		}
	}
	a.tails.committing.Store(&look)
	err := operate()
	a.tails.committing.Store(nil)
	if err != nil {
		t.Fatal(err)
	}
	// The operation is begun, and is done. Others may change the database at any time.
	if got := strings.Trim(seen.String(), "+"); len(got) < 2 || strings.Contains(got, "+") {
		t.Errorf("in the middle of %s the device was %q, want it to be refused twice or more, and never had", what, got)
	}
	f, err := a.mount()
	if err != nil {
		t.Fatalf("the device cannot be had after %s: %v", what, err)
	}
	got := make([]byte, 512)
	_, err = f.ReadAt(got, 0)
	if err := errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{1}, len(got))) {
		t.Errorf("the device holds %d after %s (%v), want 1", got[0], what, err)
	}
}
