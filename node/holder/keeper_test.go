package holder_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/node/holder"
	"github.com/lockstep-csi/lockstep/node/loop"
)

// playKeepingEngine is the life of an engine process that outlives its holders.
// It prints the block device once there is one.
func playKeepingEngine(socket, volume, path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := confine(); err != nil {
		return err
	}
	dev, err := openFileDevice(path, false)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("engine", os.Getpid())
	keeper, err := holder.Keep(ctx, holder.KeeperConfig{
		Socket: socket, Log: log,
		AttachConfig: holder.AttachConfig{Volume: volume, BlockBytes: 512, Transport: fuse.Transport(os.Getenv(transportEnv)), Known: knownByEnv()},
	})
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- fuse.Serve(ctx, keeper.Session(), dev, fuse.Options{Log: log}) }()
	device, err := keeper.AttachLoop(ctx)
	if err != nil {
		return err
	}
	fmt.Println(device)
	select {
	case err := <-served:
		if err != nil && !errors.Is(err, fuse.ErrUnmounted) {
			return err
		}
		return keeper.Close(context.Background())
	case <-keeper.Lost():
		return keeper.Err()
	}
}

// startKeepingNode is startNode for holders that keep their volumes.
func startKeepingNode(t testing.TB) *node {
	t.Helper()
	requireKernel(t)
	n := &node{TB: t, dir: t.TempDir(), keep: true}
	n.socket = filepath.Join(n.dir, "holder.sock")
	n.startHolder("-1s")
	t.Cleanup(n.tearDown)
	return n
}

func (n *node) startKeepingEngine(volume, file string) *engineProcess {
	n.Helper()
	return n.startEngineAs("keeping-engine", volume, file, nil)
}

// replaceHolder kills the holder and starts the next one.
func (n *node) replaceHolder() {
	n.Helper()
	n.killHolder()
	n.awaitHolderEnd(testContext(n))
	_ = n.client.Close()
	n.startHolder("-1s")
}

// describe returns what the holder says of a volume, and whether it has it.
func (n *node) describe(volume string) (holder.Volume, bool) {
	n.Helper()
	volumes, err := n.client.List(testContext(n))
	if err != nil {
		n.Fatal(err)
	}
	for _, v := range volumes {
		if v.ID == volume {
			return v, true
		}
	}
	return holder.Volume{}, false
}

// await asks until a condition holds.
func (n *node) await(what string, condition func() bool) {
	n.Helper()
	ctx := testContext(n)
	for !condition() {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			n.Fatalf("waited in vain: %s", what)
		}
	}
}

func (n *node) awaitRestored(volume string) {
	n.Helper()
	n.await("the engine brings its descriptor back", func() bool {
		v, found := n.describe(volume)
		return found && v.Leased && !v.Away
	})
}

// verify runs fio over a device in the background; its report goes to the path
// that is returned.
func (n *node) verify(t *testing.T, device, seconds string) (ended <-chan error, report string) {
	report = filepath.Join(n.dir, "fio.json")
	return startFio(t, "--name=verify", "--filename="+device, "--rw=randrw", "--bs=4k",
		"--iodepth=32", "--ioengine=libaio", "--direct=1", "--size=64m", "--fsync=64",
		"--verify=crc32c", "--verify_state_save=0", "--verify_backlog=64", "--verify_fatal=1",
		"--time_based", "--runtime="+seconds, "--output-format=json", "--output="+report), report
}

// TestHolderKilledUnderVerify replaces the holder again and again by SIGKILL
// while fio writes and verifies, and every other time also the engine once the
// next holder has the descriptor back. Nothing may fail, and nothing be lost.
func TestHolderKilledUnderVerify(t *testing.T) {
	requireTools(t, "fio")
	n := startKeepingNode(t)
	file := n.newFile(64 << 20)
	engine := n.startKeepingEngine("vol", file)
	fio := n.startVerify(engine.device, "--bs=4k", "--iodepth=32")
	holders := 4 * killsEachRound * testRounds(t)
	for k := range holders {
		fio.awaitProgress(engine.device)
		n.replaceHolder()
		n.awaitRestored("vol")
		if k%2 == 1 {
			engine.kill()
			engine = n.startKeepingEngine("vol", file)
		}
	}
	fio.awaitProgress(engine.device)
	fio.finish()
	t.Logf("%d holders and %d engines killed, no error", holders, holders/2)
	if err := n.client.Detach(testContext(t), "vol", true); !errors.Is(err, holder.ErrLeased) {
		t.Errorf("detach of what another client serves: %v, want ErrLeased", err)
	}
	engine.kill()
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}

// TestBothKilled documents what happens when holder and engine die together: I/O
// fails, nothing hangs, and the next attach gets a new device although the old
// one is still mounted. That one goes with its last user.
func TestBothKilled(t *testing.T) {
	requireTools(t, "mkfs.ext4")
	n := startKeepingNode(t)
	file := n.newFile(64 << 20)
	engine := n.startKeepingEngine("vol", file)
	run(t, "mkfs.ext4", "-q", engine.device)
	point := mountAt(t, engine.device, n.dir)
	writeSynced(t, filepath.Join(point, "kept"), []byte("yes"))
	for _, order := range []string{"holder first", "engine first"} {
		if order == "holder first" {
			n.killHolder()
			engine.kill()
		} else {
			engine.kill()
			n.killHolder()
		}
		n.awaitHolderEnd(testContext(t))
		if err := awaitResult(t, readSector(t, engine.device)); !errors.Is(err, unix.EIO) {
			t.Errorf("%s: read from the device of the dead: %v, want EIO", order, err)
		}
		n.startHolder("-1s")
		if v, found := n.describe("vol"); found {
			t.Errorf("%s: the next holder has %+v", order, v)
		}
		dead := engine.device
		engine = n.startKeepingEngine("vol", file)
		if engine.device == dead {
			t.Errorf("%s: %s is in use and was attached again", order, dead)
		}
		if err := syscall.Unmount(point, 0); err != nil {
			t.Errorf("%s: unmount the dead file system: %v", order, err)
		}
		point = mountAt(t, engine.device, n.dir)
		if got, err := os.ReadFile(filepath.Join(point, "kept")); err != nil || string(got) != "yes" {
			t.Errorf("%s: after the next attach: %q, %v", order, got, err)
		}
	}
	if err := syscall.Unmount(point, 0); err != nil {
		t.Error(err)
	}
	engine.kill()
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
}

// TestFence: who gets a volume after its holder was replaced.
func TestFence(t *testing.T) {
	n := startKeepingNode(t)
	config := holder.AttachConfig{Volume: "vol", BlockBytes: 512}
	engine := n.startKeepingEngine("vol", n.newFile(1<<20))
	if err := engine.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	n.replaceHolder()
	// The engine lives, and has not come back: nobody else may have its device,
	// or take it away.
	if v, found := n.describe("vol"); !found || !v.Away || v.Leased || v.Device != engine.device {
		t.Errorf("an engine that has not come back is described as %+v", v)
	}
	if _, err := n.client.Attach(testContext(t), config); !errors.Is(err, holder.ErrLeased) {
		t.Errorf("attach before the engine came back: %v, want ErrLeased", err)
	}
	if err := n.client.Detach(testContext(t), "vol", false); !errors.Is(err, holder.ErrLeased) {
		t.Errorf("detach before the engine came back: %v, want ErrLeased", err)
	}
	if err := engine.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	n.awaitRestored("vol")
	if err := awaitResult(t, readSector(t, engine.device)); err != nil {
		t.Errorf("read after the engine came back: %v", err)
	}
	// It dies without a holder: the next one does not have it.
	n.killHolder()
	n.awaitHolderEnd(testContext(t))
	engine.kill()
	n.startHolder("-1s")
	session, err := n.client.Attach(testContext(t), config)
	if err != nil || session.Takeover {
		t.Fatalf("attach after both died: %+v, %v", session, err)
	}
	_ = session.Conn.Close()
	if err := n.client.Detach(testContext(t), "vol", true); err != nil {
		t.Error(err)
	}
}

// TestKeeperLoses: a lease that went to somebody else, or a volume that was
// detached, while the engine had no holder. The engine is told.
func TestKeeperLoses(t *testing.T) {
	n := startKeepingNode(t)
	config := holder.AttachConfig{Volume: "vol", BlockBytes: 512}
	keep := func() *holder.Keeper {
		keeper, err := holder.Keep(testContext(t), holder.KeeperConfig{Socket: n.socket, AttachConfig: config})
		if err != nil {
			t.Fatal(err)
		}
		return keeper
	}
	awaitLoss := func(keeper *holder.Keeper, want error) {
		t.Helper()
		select {
		case <-keeper.Lost():
		case <-time.After(20 * time.Second):
			t.Fatal("the keeper is not told")
		}
		if err := keeper.Err(); !errors.Is(err, want) {
			t.Errorf("lost because of %v, want %v", err, want)
		}
		if _, err := keeper.AttachLoop(testContext(t)); !errors.Is(err, want) {
			t.Errorf("call after the loss: %v, want %v", err, want)
		}
		if err := keeper.Close(testContext(t)); err != nil {
			t.Errorf("close after the loss: %v", err)
		}
	}
	keeper := keep()
	n.killHolder()
	n.awaitHolderEnd(testContext(t))
	if err := unix.Unmount(filepath.Join(n.mounts(), "vol"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	n.startHolder("-1s")
	awaitLoss(keeper, holder.ErrNotAttached)

	keeper = keep()
	n.killHolder()
	n.awaitHolderEnd(testContext(t))
	// As if it had been handed out once more before the holder died.
	record := filepath.Join(n.mounts(), ".volumes", "vol.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, []byte(strings.Replace(string(text), `"lease":1`, `"lease":2`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	n.startHolder("-1s")
	awaitLoss(keeper, holder.ErrSuperseded)
	if err := n.client.Detach(testContext(t), "vol", true); err != nil {
		t.Error(err)
	}
}

// TestContainers runs each holder in a mount namespace of its own with a folder
// that they share with the host, as the containers of a node plugin do. The next
// one finds, serves and unmounts what the one before mounted, although the kernel
// no longer knows the path of the file behind the device.
func TestContainers(t *testing.T) {
	requireKernel(t)
	requireTools(t, "unshare", "mkfs.ext4")
	n := sharedNode(t)
	file := n.newFile(64 << 20)
	engine := n.startKeepingEngine("vol", file)
	run(t, "mkfs.ext4", "-q", engine.device)
	point := mountAt(t, engine.device, n.dir)
	n.replaceHolder()
	n.awaitRestored("vol")
	if d := deviceAt(t, engine.device); strings.HasPrefix(d.BackingFile, n.dir) {
		t.Errorf("%s still has the path %s: this test does not test what it is about", d.Path(), d.BackingFile)
	}
	if v, _ := n.describe("vol"); v.Device != engine.device {
		t.Errorf("the next holder has %+v, the device is %s", v, engine.device)
	}
	writeSynced(t, filepath.Join(point, "next-container"), []byte("yes"))
	engine.kill()
	engine = n.startKeepingEngine("vol", file)
	writeSynced(t, filepath.Join(point, "next-engine"), []byte("yes"))
	if err := os.Truncate(file, 96<<20); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	engine.kill()
	if err := n.client.Detach(testContext(t), "vol", false); err != nil {
		t.Error(err)
	}
	if volumes, err := filepath.Glob(filepath.Join(n.mounts(), "vol*")); err != nil || len(volumes) != 0 {
		t.Errorf("left behind: %q, %v", volumes, err)
	}
}

// sharedNode is a keeping node whose holders have mount namespaces of their own,
// and share with the host what is mounted in the node's directory. That has to
// include file systems on its devices: a mount namespace that ends with the last
// mount of one waits for the engine of its device.
func sharedNode(t *testing.T) *node {
	n := &node{TB: t, dir: t.TempDir(), keep: true, unshare: "unchanged"}
	n.socket = filepath.Join(n.dir, "holder.sock")
	if err := unix.Mount(n.dir, n.dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", n.dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	n.startHolder("-1s")
	t.Cleanup(func() {
		n.killHolder()
		n.awaitHolderEnd(testContext(t))
		_ = n.client.Close()
		if err := unix.Unmount(n.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		n.checkLeaks()
	})
	return n
}

func deviceAt(t *testing.T, path string) loop.Device {
	t.Helper()
	devices, err := loop.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if d.Path() == path {
			return d
		}
	}
	t.Fatalf("%s is not attached", path)
	return loop.Device{}
}

// TestStaleDevices: what a node that lost power left to the kernel is cleared
// away by its next life, and nothing else.
func TestStaleDevices(t *testing.T) {
	requireTools(t, "unshare")
	n := startKeepingNode(t)
	n.killHolder()
	n.awaitHolderEnd(testContext(t))
	n.unshare = "private"
	n.startHolder("-1s")
	file := n.newFile(1 << 20)
	engine := n.startKeepingEngine("vol", file)
	ours := deviceAt(t, engine.device)
	// Another node of this machine has the same volume.
	foreign := filepath.Join(n.dir, "device-0123456789ab-7-vol")
	if err := os.WriteFile(foreign, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs, err := loop.Attach(testContext(t), foreign, loop.Config{BlockBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	n.killHolder()
	n.awaitHolderEnd(testContext(t))
	engine.kill()
	if _, err := loop.FindName(ours.Name()); err != nil {
		t.Fatalf("the device does not outlive its node: %v", err)
	}
	n.unshare = ""
	n.startHolder("-1s")
	if d, err := loop.FindName(ours.Name()); !errors.Is(err, loop.ErrNotFound) {
		t.Errorf("the next life of the node left %+v, %v", d, err)
	}
	if d, err := loop.FindName(theirs.Name()); err != nil || d != theirs {
		t.Errorf("another node's device: %+v, %v", d, err)
	}
	if err := theirs.Detach(testContext(t)); err != nil {
		t.Error(err)
	}
}

// unprivilegedID is the user and group that an engine runs as in these tests.
const unprivilegedID = 65534

// confine takes io_uring away from an engine that is to be like in a container,
// which the seccomp profile of container runtimes does.
func confine() error {
	if os.Getenv("LOCKSTEP_TEST_CONFINE") == "" {
		return nil
	}
	return forbidIOURing()
}

// TestUnprivilegedEngine serves as a user without any capability but IPC_LOCK,
// and with none.
func TestUnprivilegedEngine(t *testing.T) {
	for name, c := range map[string]struct {
		capabilities []uintptr
		says         string
	}{
		"CAP_IPC_LOCK":  {[]uintptr{unix.CAP_IPC_LOCK}, ""},
		"no capability": {nil, "grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK"},
	} {
		t.Run(name, func(t *testing.T) {
			n := startKeepingNode(t)
			// The test's own directories, and nothing above them.
			for _, dir := range []string{n.dir, filepath.Dir(n.dir)} {
				if err := os.Chmod(dir, 0o711); err != nil {
					t.Fatal(err)
				}
			}
			file := n.newFile(64 << 20)
			if err := os.Chown(file, unprivilegedID, unprivilegedID); err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(n.dir, "engine.log")
			stderr, err := os.Create(log)
			if err != nil {
				t.Fatal(err)
			}
			defer stderr.Close()
			var engine *engineProcess
			start := func() {
				engine = n.startEngineAs("keeping-engine", "vol", file, func(cmd *exec.Cmd) {
					cmd.SysProcAttr = &syscall.SysProcAttr{
						Credential:  &syscall.Credential{Uid: unprivilegedID, Gid: unprivilegedID},
						AmbientCaps: c.capabilities,
					}
					cmd.Env = append(cmd.Env, "LOCKSTEP_TEST_CONFINE=1")
					cmd.Stderr = stderr
				})
			}
			start()
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", engine.cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("CapEff:\t%016x\n", capabilityBits(c.capabilities)); !strings.Contains(string(status), want) || !strings.Contains(string(status), "Seccomp:\t2\n") {
				t.Fatalf("the engine is not confined: want %q, seccomp 2:\n%s", want, status)
			}
			fio, report := n.verify(t, engine.device, "3")
			n.replaceHolder()
			n.awaitRestored("vol")
			engine.kill()
			start()
			if err := <-fio; err != nil {
				t.Fatal(err)
			}
			if failed := fioErrors(t, report); failed != 0 {
				t.Errorf("fio counted %d errors", failed)
			}
			said, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			if warned := strings.Contains(string(said), "not locked in memory"); warned != (c.says != "") || !strings.Contains(string(said), c.says) {
				t.Errorf("the engine said %q, want %q", said, c.says)
			}
			engine.kill()
			if err := n.client.Detach(testContext(t), "vol", false); err != nil {
				t.Error(err)
			}
		})
	}
}

func capabilityBits(capabilities []uintptr) (bits uint64) {
	for _, c := range capabilities {
		bits |= 1 << c
	}
	return bits
}
