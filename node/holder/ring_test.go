package holder_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// startRingEngine starts an engine process that serves over io_uring.
func (n *node) startRingEngine(role, volume, file string) *engineProcess {
	n.Helper()
	return n.startEngineAs(role, volume, file, func(cmd *exec.Cmd) {
		cmd.Env = append(cmd.Env, transportEnv+"="+string(fuse.TransportRing))
	})
}

// TestRingVerify has fio write, verify, flush and discard over io_uring, also with
// requests that are longer than one of the transport.
func TestRingVerify(t *testing.T) {
	requireTools(t, "fio")
	for _, c := range []struct{ block, depth string }{{"4k", "64"}, {"1m", "8"}} {
		t.Run(c.block, func(t *testing.T) {
			n := startRingNode(t)
			engine := n.startRingEngine("engine", "vol", n.newFile(64<<20))
			report := filepath.Join(n.dir, "fio.json")
			if err := <-startFio(t, "--name=verify", "--filename="+engine.device, "--rw=randrw", "--bs="+c.block,
				"--iodepth="+c.depth, "--ioengine=libaio", "--direct=1", "--size=64m", "--fsync=64", "--numjobs=1",
				"--verify=crc32c", "--verify_state_save=0", "--verify_backlog=64", "--verify_fatal=1",
				"--time_based", "--runtime=3", "--output-format=json", "--output="+report); err != nil {
				t.Fatal(err)
			}
			if failed := fioErrors(t, report); failed != 0 {
				t.Errorf("fio counted %d errors", failed)
			}
			if err := n.client.Detach(testContext(t), "vol", false); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRingEngineKilled: nobody can take over from an engine over io_uring. When it
// dies, I/O fails instead of waiting for ever, and the next engine gets a new
// device with all that was acknowledged.
func TestRingEngineKilled(t *testing.T) {
	n := startRingNode(t)
	file := n.newFile(1 << 20)
	engine := n.startRingEngine("engine", "vol", file)
	want := bytes.Repeat([]byte("lockstep"), 64)
	device := openDirect(t, engine.device)
	if _, err := device.WriteAt(alignedCopy(want), 4096); err != nil {
		t.Fatal(err)
	}
	if v, found := n.describe("vol"); !found || v.Transport != fuse.TransportRing {
		t.Fatalf("the holder has %+v", v)
	}
	engine.kill()
	if err := awaitResult(t, readSector(t, engine.device)); err == nil {
		t.Fatal("a read without an engine succeeded")
	}
	_ = device.Close()
	next := n.startRingEngine("engine", "vol", file)
	got := alignedCopy(make([]byte, len(want)))
	again := openDirect(t, next.device)
	defer again.Close()
	if _, err := again.ReadAt(got, 4096); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the next engine's device has %q, %v", got[:8], err)
	}
	_ = again.Close()
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}

// TestRingReleaseIsFinal: also after an orderly end the next engine gets a new
// mount, never the descriptor of the old one.
func TestRingReleaseIsFinal(t *testing.T) {
	n := startRingNode(t)
	first := n.serve("vol", conformance.NewMemory(1<<20), 512)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if err := n.client.Release(testContext(t), "vol"); err != nil {
		t.Fatal(err)
	}
	if err := awaitResult(t, readSector(t, first.device)); err == nil {
		t.Error("a read without an engine succeeded")
	}
	session, err := n.client.Attach(testContext(t), holder.AttachConfig{Volume: "vol", BlockBytes: 512, Transport: fuse.TransportRing})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Conn.Close()
	if session.Takeover {
		t.Error("a session over io_uring is to be taken over")
	}
}

// TestRingOutlivesHolder replaces the holder while an engine serves over io_uring:
// the lease goes on.
func TestRingOutlivesHolder(t *testing.T) {
	requireTools(t, "fio")
	enableRing(t)
	n := startKeepingNode(t)
	engine := n.startRingEngine("keeping-engine", "vol", n.newFile(64<<20))
	fio, report := n.verify(t, engine.device, "3")
	for range 3 {
		n.replaceHolder()
		n.awaitRestored("vol")
	}
	if err := <-fio; err != nil {
		t.Fatal(err)
	}
	if failed := fioErrors(t, report); failed != 0 {
		t.Errorf("fio counted %d errors", failed)
	}
	engine.kill()
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}

// TestRingUnmountedUnderLoad takes the device away in the middle of I/O: Serve ends,
// and leaves no goroutine. With two readers each has queues of its own.
func TestRingUnmountedUnderLoad(t *testing.T) {
	requireTools(t, "fio")
	for _, readers := range []int{1, 2} {
		t.Run(fmt.Sprint(readers), func(t *testing.T) { unmountUnderLoad(t, readers) })
	}
}

func unmountUnderLoad(t *testing.T, readers int) {
	n := startRingNode(t)
	session, err := n.client.Attach(testContext(t), holder.AttachConfig{Volume: "vol", BlockBytes: 512, Transport: fuse.TransportRing})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Conn.Close()
	before := goleak.IgnoreCurrent()
	served := make(chan error, 1)
	go func() {
		served <- fuse.Serve(t.Context(), session, conformance.NewMemory(64<<20), fuse.Options{Readers: readers})
	}()
	device, err := n.client.AttachLoop(testContext(t), "vol")
	if err != nil {
		t.Fatal(err)
	}
	fio := startFio(t, "--name=load", "--filename="+device, "--rw=randrw", "--bs=4k", "--ioengine=libaio",
		"--direct=1", "--iodepth=64", "--size=64m", "--time_based", "--runtime=60")
	n.await("requests", func() bool { return sectorsWritten(t, device) > 1000 })
	if err := n.client.Detach(testContext(t), "vol", true); err != nil {
		t.Error(err)
	}
	if err := awaitResult(t, served); !errors.Is(err, fuse.ErrUnmounted) {
		t.Errorf("Serve: %v, want ErrUnmounted", err)
	}
	if err := <-fio; err == nil {
		t.Error("fio did not notice that its device was taken away")
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}

// sectorsWritten is what the kernel has counted for a device.
func sectorsWritten(t *testing.T, device string) int {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	return atoi(t, strings.Fields(string(stat))[6])
}

// TestRingFallsBack: where io_uring is not to be had the device is served over
// /dev/fuse, and the session says why.
func TestRingFallsBack(t *testing.T) {
	wish := holder.AttachConfig{Volume: "vol", BlockBytes: 512, Transport: fuse.TransportRing}
	t.Run("kernel", func(t *testing.T) {
		requireKernel(t)
		setRing(t, "N")
		n := startNode(t)
		session, err := n.client.Attach(testContext(t), wish)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Conn.Close()
		if session.Init.Transport() != fuse.TransportDevice || !errors.Is(session.Fallback, fuse.ErrNotOffered) {
			t.Errorf("transport %s, fallback %v", session.Init.Transport(), session.Fallback)
		}
	})
	t.Run("present mount", func(t *testing.T) {
		n := startRingNode(t)
		n.transport = fuse.TransportDevice
		if err := n.serve("vol", conformance.NewMemory(1<<20), 512).stop(); err != nil {
			t.Fatal(err)
		}
		if err := n.client.Release(testContext(t), "vol"); err != nil {
			t.Fatal(err)
		}
		session, err := n.client.Attach(testContext(t), wish)
		if err != nil {
			t.Fatal(err)
		}
		defer session.Conn.Close()
		if !session.Takeover || session.Init.Transport() != fuse.TransportDevice || session.Fallback == nil {
			t.Errorf("takeover %t, transport %s, fallback %v", session.Takeover, session.Init.Transport(), session.Fallback)
		}
	})
	t.Run("confined engine", func(t *testing.T) {
		requireKernel(t)
		enableRing(t)
		n := startKeepingNode(t)
		log := filepath.Join(n.dir, "engine.log")
		stderr, err := os.Create(log)
		if err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
		engine := n.startEngineAs("keeping-engine", "vol", n.newFile(1<<20), func(cmd *exec.Cmd) {
			cmd.Env = append(cmd.Env, transportEnv+"="+string(fuse.TransportRing), "LOCKSTEP_TEST_CONFINE=1")
			cmd.Stderr = stderr
		})
		if err := awaitResult(t, readSector(t, engine.device)); err != nil {
			t.Error(err)
		}
		if v, _ := n.describe("vol"); v.Transport != fuse.TransportDevice {
			t.Errorf("the holder has %+v", v)
		}
		if said, err := os.ReadFile(log); err != nil || !bytes.Contains(said, []byte("this process cannot use io_uring: io_uring_setup: "+unix.EPERM.Error())) {
			t.Errorf("the engine said %q, %v", said, err)
		}
		engine.kill()
		if err := n.client.Detach(testContext(t), "vol", false); err != nil {
			t.Error(err)
		}
	})
}

// TestHolderPicksTransport: an engine that does not say gets what the holder is set
// up for.
func TestHolderPicksTransport(t *testing.T) {
	requireKernel(t)
	enableRing(t)
	t.Setenv(transportEnv, string(fuse.TransportRing))
	n := startKeepingNode(t)
	session, err := n.client.Attach(testContext(t), holder.AttachConfig{Volume: "vol", BlockBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Conn.Close()
	if got := session.Init.Transport(); got != fuse.TransportRing {
		t.Errorf("attached over %s: %v", got, session.Fallback)
	}
	if err := n.client.Release(testContext(t), "vol"); err != nil {
		t.Error(err)
	}
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}
