package holder_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/node/holder"
)

// readSector reads the first sector of a device, past the page cache, in the
// background.
func readSector(t *testing.T, device string) <-chan error {
	t.Helper()
	f := openDirect(t, device)
	p := alignedBuffer(t, 4096)
	result := make(chan error, 1)
	go func() {
		_, err := f.ReadAt(p[:512], 0)
		_ = f.Close()
		result <- err
	}()
	return result
}

func awaitResult(t *testing.T, result <-chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("I/O hangs")
		return nil
	}
}

// TestDetachWithDeadEngine detaches while I/O waits for an engine that is gone.
// The I/O must fail and the detach must not hang.
func TestDetachWithDeadEngine(t *testing.T) {
	n := startNode(t)
	engine := n.startEngine("vol", n.newFile(1<<20))
	engine.kill()
	waiting := readSector(t, engine.device)
	select {
	case err := <-waiting:
		t.Fatalf("a read without an engine ended: %v", err)
	case <-time.After(20 * time.Millisecond): // it waits; no longer is needed to see that
	}
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Fatal(err)
	}
	if err := awaitResult(t, waiting); !errors.Is(err, unix.EIO) {
		t.Errorf("the read that waited: %v, want EIO", err)
	}
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Errorf("second detach: %v", err)
	}
	volumes, err := n.client.List(testContext(t))
	if err != nil || len(volumes) != 0 {
		t.Errorf("after the detach: %+v, %v", volumes, err)
	}
}

// TestDetachInUse refuses to pull a device from under a file system, with and
// without an engine, unless forced.
func TestDetachInUse(t *testing.T) {
	requireTools(t, "mkfs.ext4")
	n := startNode(t)
	file := n.newFile(64 << 20)
	engine := n.startEngine("vol", file)
	run(t, "mkfs.ext4", "-q", engine.device)
	point := mountAt(t, engine.device, n.dir)
	if err := n.client.Detach(testContext(t), "vol", false); !errors.Is(err, holder.ErrBusy) {
		t.Fatalf("detach a mounted device: %v, want ErrBusy", err)
	}
	writeSynced(t, filepath.Join(point, "still-alive"), []byte("yes"))
	engine.kill()
	if err := n.client.Detach(testContext(t), "vol", false); !errors.Is(err, holder.ErrBusy) {
		t.Fatalf("detach a mounted device without engine: %v, want ErrBusy", err)
	}
	engine = n.startEngine("vol", file)
	writeSynced(t, filepath.Join(point, "alive-again"), []byte("yes"))
	if err := n.client.Detach(testContext(t), "vol", true); err != nil {
		t.Fatalf("forced detach: %v", err)
	}
	if err := engine.cmd.Wait(); err != nil {
		t.Errorf("the engine of a device that was taken away: %v", err)
	}
	if err := os.WriteFile(filepath.Join(point, "lost"), make([]byte, 1<<20), 0o600); err == nil {
		syscall.Sync() // buffered: let it fail where it must
	}
	if err := syscall.Unmount(point, 0); err != nil {
		t.Errorf("unmount what is left: %v", err)
	}
	if err := engine.attached.Detach(testContext(t)); err != nil { // it goes with its last user
		t.Errorf("device is still there: %v", err)
	}
}

// TestHolderKilled documents what happens: a device that is being served works
// on; with the engine's end its I/O fails, and nothing hangs. The next holder
// clears away what is left.
func TestHolderKilled(t *testing.T) {
	n := startNode(t)
	file := n.newFile(1 << 20)
	engine := n.startEngine("vol", file)
	n.killHolder()
	select {
	case <-n.client.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the client does not notice")
	}
	if _, err := n.client.List(testContext(t)); !errors.Is(err, holder.ErrClosed) {
		t.Errorf("call without a holder: %v, want ErrClosed", err)
	}
	if err := awaitResult(t, readSector(t, engine.device)); err != nil {
		t.Errorf("read from an engine without its holder: %v", err)
	}
	engine.kill()
	if err := awaitResult(t, readSector(t, engine.device)); !errors.Is(err, unix.EIO) {
		t.Errorf("read without holder and engine: %v, want EIO", err)
	}
	n.startHolder("1m")
	engine = n.startEngine("vol", file)
	if err := awaitResult(t, readSector(t, engine.device)); err != nil {
		t.Errorf("read from the same volume with the next holder: %v", err)
	}
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}

// TestADeadDeviceThatIsOpen: a process has a device open that is dead, as that of a pod
// with a raw block volume does, and does not let go of it. Nobody waits for it, the volume gets
// another device, and the dead one goes with its user.
func TestADeadDeviceThatIsOpen(t *testing.T) {
	for name, dies := range map[string]func(n *node, engine *engineProcess){
		"with holder and engine": func(n *node, engine *engineProcess) {
			n.killHolder()
			engine.kill()
			n.startHolder("1m")
		},
		"with its connection": func(n *node, engine *engineProcess) {
			abortMount(t, filepath.Join(n.mounts(), "vol"))
			engine.kill()
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t)
			file := n.newFile(1 << 20)
			engine := n.startEngine("vol", file)
			user := openDirect(t, engine.device)
			dies(n, engine)
			next := n.startEngine("vol", file)
			if err := awaitResult(t, readSector(t, next.device)); err != nil {
				t.Errorf("read from the volume's new device: %v", err)
			}
			if _, err := user.ReadAt(alignedBuffer(t, 4096), 0); !errors.Is(err, unix.EIO) {
				t.Errorf("read from the dead device: %v, want EIO", err)
			}
			if err := errors.Join(user.Close(), n.client.Detach(testContext(t), "vol", false)); err != nil {
				t.Error(err)
			}
			if err := engine.attached.Detach(testContext(t)); err != nil {
				t.Errorf("device is still there: %v", err)
			}
		})
	}
}

// killHolder ends the holder's process without any warning.
func (n *node) killHolder() {
	n.Helper()
	n.signalHolder(syscall.SIGKILL)
}

func (n *node) signalHolder(signal os.Signal) {
	n.Helper()
	raw, err := os.ReadFile(filepath.Join(n.dir, "pid"))
	if err != nil {
		n.Fatal(err)
	}
	process, err := os.FindProcess(atoi(n, string(raw)))
	if err != nil {
		n.Fatal(err)
	}
	if err := process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.Fatal(err)
	}
}

// TestHolderEndsWhenIdle waits for a holder without volumes and clients to end
// by itself, and sees that it does not end while it has either.
func TestHolderEndsWhenIdle(t *testing.T) {
	requireKernel(t)
	n := &node{TB: t, dir: t.TempDir()}
	n.socket = filepath.Join(n.dir, "holder.sock")
	n.startHolder("50ms")
	t.Cleanup(n.checkLeaks)
	engine := n.startEngine("vol", n.newFile(1<<20))
	_ = n.client.Close()
	engine.kill()
	client, err := holder.Dial(testContext(t), n.socket)
	if err != nil {
		t.Fatalf("the holder of a volume is gone: %v", err)
	}
	if err := client.Detach(testContext(t), "vol", false); err != nil {
		t.Fatal(err)
	}
	select {
	case <-client.Done():
		t.Fatal("the holder ended while a client was connected")
	case <-time.After(200 * time.Millisecond): // four idle times-out
	}
	_ = client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	n.awaitHolderEnd(ctx)
}

func TestInvalidRequests(t *testing.T) {
	n := startNode(t)
	for name, config := range map[string]holder.AttachConfig{
		"empty id":        {BlockBytes: 512},
		"path in id":      {Volume: "../vol", BlockBytes: 512},
		"hidden":          {Volume: ".lock", BlockBytes: 512},
		"no block size":   {Volume: "vol"},
		"odd block size":  {Volume: "vol", BlockBytes: 1000},
		"huge block size": {Volume: "vol", BlockBytes: 8192},
	} {
		if _, err := n.client.Attach(testContext(t), config); !errors.Is(err, holder.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	engine := n.startEngine("vol", n.newFile(1<<20))
	engine.kill()
	_, err := n.client.Attach(testContext(t), holder.AttachConfig{Volume: "vol", BlockBytes: 4096})
	if !errors.Is(err, holder.ErrInvalid) {
		t.Errorf("another block size than attached with: %v, want ErrInvalid", err)
	}
	if _, err := n.client.AttachLoop(testContext(t), "none"); !errors.Is(err, holder.ErrNotAttached) {
		t.Errorf("loop device of no volume: %v, want ErrNotAttached", err)
	}
	if err := n.client.Release(testContext(t), "none"); err != nil {
		t.Errorf("release of no volume: %v", err)
	}
}
