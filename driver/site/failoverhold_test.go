package site_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/driver/groups"
)

// Nobody can mount a device that was left attached when its site was demoted, between the
// moment in which a failover back has seen that it is not in use and the one in which its
// volume holds something else. A failover that comes to nothing gives it back.
func TestNobodyMountsADeviceWhileItsVolumeIsFailedOverTo(t *testing.T) {
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
	if err := a.follow(2, members, nil); err != nil {
		t.Fatal(err)
	}
	f, err := a.mount()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Groups().Failover(a.ctx, "shop", "pin:before", false); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("failover under a mount: %v, want ErrInUse", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	a.tails.commits.Store(true)
	if _, err := a.Groups().Failover(a.ctx, "shop", "pin:before", false); !errors.Is(err, errDisk) {
		t.Errorf("failover that cannot be written down: %v, want %v", err, errDisk)
	}
	a.tails.commits.Store(false)
	if f, err = a.mount(); err != nil {
		t.Fatalf("the device cannot be had after a failover that came to nothing: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	var seen strings.Builder // of each change of the site's database: - refused, + had
	look := func() {
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
	_, err = a.Groups().Failover(a.ctx, "shop", "pin:before", false)
	a.tails.committing.Store(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Trim(seen.String(), "+"); len(got) < 2 || strings.Contains(got, "+") {
		t.Errorf("in the middle of a failover the device was %q, want it to be refused twice or more, and never had", got)
	}
	if f, err = a.mount(); err != nil {
		t.Fatalf("the device cannot be had after the failover: %v", err)
	}
	got := make([]byte, 512)
	_, err = f.ReadAt(got, 0)
	if err := errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{1}, len(got))) {
		t.Errorf("the device holds %d after the failover (%v), want 1", got[0], err)
	}
}
