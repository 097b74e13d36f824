package holder_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// TestHolderUpgraded ends holders in order, as an upgrade does. One waits for the
// engine of a device that is in use.
func TestHolderUpgraded(t *testing.T) {
	requireTools(t, "mkfs.ext4")
	n := startKeepingNode(t)
	file := n.newFile(64 << 20)
	engine := n.startKeepingEngine("vol", file)
	run(t, "mkfs.ext4", "-q", engine.device)
	point := mountAt(t, engine.device, n.dir)
	old := n.client
	n.signalHolder(syscall.SIGTERM)
	n.awaitHolderEnd(testContext(t))
	<-old.Done()
	writeSynced(t, filepath.Join(point, "without-holder"), []byte("yes"))
	n.startHolder("-1s")
	n.awaitRestored("vol")

	engine.kill()
	n.await("the holder notices that the engine is gone", func() bool {
		v, _ := n.describe("vol")
		return !v.Leased
	})
	n.signalHolder(syscall.SIGTERM)
	engine = n.launchEngine("keeping-engine", "vol", file, nil)
	n.awaitHolderEnd(testContext(t)) // which it does once the engine has the descriptor
	writeSynced(t, filepath.Join(point, "handed-over"), []byte("yes"))
	n.startHolder("-1s")
	n.awaitDevice(engine)
	n.awaitRestored("vol")
	if err := syscall.Unmount(point, 0); err != nil {
		t.Error(err)
	}
	engine.kill()
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}

// TestHolderEndsUnderAttach: a holder that ends while an engine waits for its device.
// The engine must not take that for an answer, or it would end, too, and with it
// the device, for which nobody else has the descriptor: it asks the next holder.
func TestHolderEndsUnderAttach(t *testing.T) {
	n := startKeepingNode(t)
	dev, err := openFileDevice(n.newFile(1<<20), false)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	config := holder.KeeperConfig{Socket: n.socket, AttachConfig: holder.AttachConfig{Volume: "vol", BlockBytes: 512}}
	keeper, err := holder.Keep(testContext(t), config)
	if err != nil {
		t.Fatal(err)
	}
	attached := make(chan error, 1)
	go func() {
		_, err := keeper.AttachLoop(testContext(t))
		attached <- err
	}()
	awaitRequest(t, keeper.Session().Conn) // the holder's own, which nobody serves yet
	n.signalHolder(syscall.SIGTERM)
	n.awaitHolderEnd(testContext(t))
	_ = n.client.Close()

	served := make(chan error, 1)
	go func() { served <- fuse.Serve(testContext(t), keeper.Session(), dev, fuse.Options{}) }()
	n.startHolder("-1s")
	if err := <-attached; err != nil {
		t.Errorf("attach over the end of a holder: %v", err)
	}
	if err := keeper.Detach(testContext(t), false); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, fuse.ErrUnmounted) {
		t.Errorf("serve: %v, want ErrUnmounted", err)
	}
	if err := keeper.Close(testContext(t)); err != nil {
		t.Error(err)
	}
}

// awaitRequest waits until the kernel has a request for the engine of conn.
func awaitRequest(t *testing.T, conn *os.File) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(conn.Fd()), Events: unix.POLLIN}}
	for {
		ready, err := unix.Poll(fds, 20_000)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || ready != 1 || fds[0].Revents != unix.POLLIN:
			t.Fatalf("wait for a request: %d ready, events %#x, %v", ready, fds[0].Revents, err)
		default:
			return
		}
	}
}
