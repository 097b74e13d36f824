package loop

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// TestWithdraw: whoever has the device, claimed or merely open, keeps it for good;
// what was written to it is in the file when it is gone.
func TestWithdraw(t *testing.T) {
	requireLoop(t)
	file := newFile(t, 1<<20)
	d := attach(t, file, Config{BlockBytes: 512})
	for name, flags := range map[string]int{"claimed": os.O_RDWR | syscall.O_EXCL, "open": os.O_RDWR} {
		user, err := os.OpenFile(d.Path(), flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Withdraw(testContext(t)); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: withdraw: %v, want ErrBusy", name, err)
		}
		if _, err := user.WriteAt([]byte(name), 0); err != nil {
			t.Errorf("%s: its user cannot write: %v", name, err)
		}
		if err := user.Close(); err != nil {
			t.Errorf("%s: its user cannot close it: %v", name, err)
		}
		if _, err := Get(d.Number); err != nil {
			t.Fatalf("%s: the device is gone with its user: %v", name, err)
		}
		if err := os.WriteFile(d.Path(), []byte("last "+name), 0); err != nil { // into the page cache
			t.Fatal(err)
		}
	}
	last, err := os.ReadFile(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Withdraw(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := Get(d.Number); !errors.Is(err, ErrNotFound) {
		t.Errorf("the device is still there: %v", err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != string(last) {
		t.Errorf("the file has %.20q, %v, want %.20q", got, err, last)
	}
	if err := d.Withdraw(testContext(t)); err != nil {
		t.Errorf("withdraw a device that is gone: %v", err)
	}
}

// TestWithdrawWaitsForAMoment: a device that is closed soon, as by udev, is had.
func TestWithdrawWaitsForAMoment(t *testing.T) {
	requireLoop(t)
	d := attach(t, newFile(t, 1<<20), Config{BlockBytes: 512})
	user, err := os.Open(d.Path())
	if err != nil {
		t.Fatal(err)
	}
	if open, err := d.clearUnlessOpen(); err != nil || !open {
		t.Fatalf("a device that is open: open %t, %v", open, err)
	}
	withdrawn := make(chan error, 1)
	go func() { withdrawn <- d.Withdraw(testContext(t)) }()
	if err := user.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-withdrawn; err != nil {
		t.Error(err)
	}
}
