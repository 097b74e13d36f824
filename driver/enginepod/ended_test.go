package enginepod_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// A device whose connection somebody has aborted fails every request. Its engine, which
// could serve it for ever, ends, and the next one has another device.
func TestADeviceThatWasAbortedIsReplaced(t *testing.T) {
	n := newNode(t)
	n.start()
	client := control.NewClient(n.cfg.Volume, n.dial(certs.RoleController))
	state, err := client.Order(within(t, 30*time.Second), n.orders(1))
	if err != nil || state.Device == "" {
		t.Fatalf("order: %+v, %v", state, err)
	}
	fd := open(t, state.Device)
	err = unix.Unmount(filepath.Join(n.dir, "holder", n.cfg.Volume.String()), unix.MNT_FORCE)
	if err != nil && !errors.Is(err, unix.EBUSY) { // the loop device has the file open
		t.Fatal(os.NewSyscallError("umount2", err))
	}
	ended := make(chan error, 1)
	go func() { ended <- n.proc.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the engine ends as if it had been told to")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the engine serves on what nobody reaches")
	}
	n.start()
	if state, err = client.Order(within(t, 30*time.Second), n.orders(2)); err != nil || state.Device == "" {
		t.Fatalf("order: %+v, %v", state, err)
	}
	if _, err := unix.Pwrite(open(t, state.Device), aligned(t, 1), 0); err != nil {
		t.Errorf("write to the new device: %v", err)
	}
	if _, err := unix.Pwrite(fd, aligned(t, 1), 0); !errors.Is(err, unix.EIO) {
		t.Errorf("write to the old device: %v, want EIO", err)
	}
}
