package holder_test

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/lockstep-csi/lockstep/node/holder"
)

// TestWithdraw takes a device away between two of its uses, changes what is behind
// it, and attaches it again: users are left alone, and the next one sees nothing of
// what the kernel had cached.
func TestWithdraw(t *testing.T) {
	requireTools(t, "mkfs.ext4")
	n := startNode(t)
	file := n.newFile(64 << 20)
	dev, err := openFileDevice(file, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	s := n.serve("vol", dev, 512)
	withdraw := func(look bool) error { return n.client.Withdraw(testContext(t), "vol", look) }

	run(t, "mkfs.ext4", "-q", s.device)
	point := mountAt(t, s.device, n.dir)
	for _, look := range []bool{true, false} {
		if err := withdraw(look); !errors.Is(err, holder.ErrBusy) {
			t.Errorf("withdraw a mounted device, look %t: %v, want ErrBusy", look, err)
		}
	}
	if err := syscall.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	user, err := os.OpenFile(s.device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	before := bytes.Repeat([]byte("before"), 1000)
	if _, err := user.WriteAt(before, 1<<20); err != nil { // into the page cache
		t.Fatal(err)
	}
	if err := withdraw(false); !errors.Is(err, holder.ErrBusy) {
		t.Errorf("withdraw an open device: %v, want ErrBusy", err)
	}
	if err := user.Close(); err != nil {
		t.Fatal(err)
	}
	if err := withdraw(true); err != nil {
		t.Errorf("look at a device that nobody uses: %v", err)
	}
	if volumes, err := n.client.List(testContext(t)); err != nil || len(volumes) != 1 || volumes[0].Device != s.device {
		t.Errorf("after a look: %+v, %v", volumes, err)
	}
	if err := withdraw(false); err != nil {
		t.Fatal(err)
	}
	_ = s.stop()
	got := make([]byte, len(before))
	if _, err := dev.file.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, before) {
		t.Errorf("what was written last has not reached the engine: %.10q, %v", got, err)
	}
	if err := withdraw(false); !errors.Is(err, holder.ErrNotAttached) {
		t.Errorf("withdraw a volume that is gone: %v, want ErrNotAttached", err)
	}

	after := bytes.Repeat([]byte("after!"), 1000)
	if _, err := dev.file.WriteAt(after, 1<<20); err != nil { // the fork
		t.Fatal(err)
	}
	again, err := os.Open(n.serve("vol", dev, 512).device)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, after) {
		t.Errorf("the device that came back has %.10q, %v, want %.10q", got, err, after)
	}
}

// TestWithdrawIsTheEngines: nobody else takes a device away, and none without one.
func TestWithdrawIsTheEngines(t *testing.T) {
	n := startNode(t)
	e := n.startEngine("vol", n.newFile(1<<20))
	for _, look := range []bool{true, false} {
		if err := n.client.Withdraw(testContext(t), "vol", look); !errors.Is(err, holder.ErrNotServed) {
			t.Errorf("by another client, look %t: %v, want ErrNotServed", look, err)
		}
	}
	e.kill()
	if err := n.client.Withdraw(testContext(t), "vol", false); !errors.Is(err, holder.ErrNotServed) {
		t.Errorf("without an engine: %v, want ErrNotServed", err)
	}
	if volumes, err := n.client.List(testContext(t)); err != nil || len(volumes) != 1 || volumes[0].Device != e.device {
		t.Errorf("left: %+v, %v", volumes, err)
	}
}
