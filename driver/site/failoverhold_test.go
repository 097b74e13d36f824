package site_test

import (
	"errors"
	"testing"

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

	a.notHadMeanwhile(t, "a failover", func() error {
		_, err := a.Groups().Failover(a.ctx, "shop", "pin:before", false)
		return err
	})
}
