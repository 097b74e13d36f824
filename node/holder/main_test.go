package holder_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/endsignal"
	"github.com/lockstep-csi/lockstep/node/holder"
	"github.com/lockstep-csi/lockstep/node/loop"
)

// roleEnv makes the test binary play a holder or an engine process, so that
// the tests can kill one.
const roleEnv = "LOCKSTEP_TEST_ROLE"

// transportEnv is the transport that an engine process asks for.
const transportEnv = "LOCKSTEP_TEST_TRANSPORT"

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "holder", "keeping-holder":
		err = playHolder(os.Args[1], os.Args[2], os.Args[3], role == "keeping-holder")
	case "keeping-engine":
		err = playKeepingEngine(os.Args[1], os.Args[2], os.Args[3])
	case "silent-engine":
		err = playSilentEngine(os.Args[1], os.Args[2])
	case "journal-engine":
		err = playJournalEngine(os.Args[1], os.Args[2], os.Args[3])
	case "engine":
		err = playEngine(os.Args[1], os.Args[2], os.Args[3])
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// playHolder is the whole life of a holder process.
func playHolder(socket, dir, idle string, keep bool) error {
	timeout, err := time.ParseDuration(idle)
	if err != nil {
		return err
	}
	// Next to the socket, for the test that kills the holder.
	pid := []byte(strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(filepath.Join(filepath.Dir(socket), "pid"), pid, 0o600); err != nil {
		return err
	}
	config := holder.Config{Socket: socket, Dir: dir, IdleTimeout: timeout, Keep: keep}
	if keep {
		config.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		config.Group = unprivilegedID
		config.Transport = fuse.Transport(os.Getenv(transportEnv))
	}
	return holder.Run(endsignal.Context(), config)
}

// playEngine serves the file at path as volume until it is killed, and prints
// the block device once there is one.
func playEngine(socket, volume, path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	dev, err := openFileDevice(path, false)
	if err != nil {
		return err
	}
	client, err := holder.Dial(ctx, socket)
	if err != nil {
		return err
	}
	config := holder.AttachConfig{Volume: volume, BlockBytes: 512, Transport: fuse.Transport(os.Getenv(transportEnv))}
	session, err := client.Attach(ctx, config)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- fuse.Serve(ctx, session, dev, fuse.Options{}) }()
	device, err := client.AttachLoop(ctx, volume)
	if err != nil {
		return err
	}
	fmt.Println(device)
	if err := <-served; !errors.Is(err, fuse.ErrUnmounted) {
		return err
	}
	return nil
}

// requireKernel skips where there is no way to run these tests at all.
func requireKernel(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not tested: block devices over FUSE; needs root to mount and to attach loop devices")
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Skipf("not tested: block devices over FUSE; needs %s: %v", path, err)
		} else {
			_ = f.Close()
		}
	}
}

// startRingNode is startNode for volumes over io_uring, for which it sets the
// kernel's switch until the end of the test.
func startRingNode(t testing.TB) *node {
	t.Helper()
	requireKernel(t)
	enableRing(t)
	n := startNode(t)
	n.transport = fuse.TransportRing
	return n
}

// enableRing skips where the kernel has no FUSE over io_uring. Of tests in several
// processes one at a time has the switch.
func enableRing(t testing.TB) {
	t.Helper()
	setRing(t, "Y")
}

// setRing sets the kernel's switch to Y or N until the end of the test.
func setRing(t testing.TB, value string) {
	t.Helper()
	if err := fuse.ProbeRing(); err != nil {
		t.Skipf("not tested: FUSE over io_uring; this process cannot use io_uring: %v", err)
	}
	f, err := os.OpenFile("/sys/module/fuse/parameters/enable_uring", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("not tested: FUSE over io_uring; needs Linux 6.14 and its switch: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	before := make([]byte, 1)
	if _, err := f.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	write := func(value string) {
		if _, err := f.WriteAt([]byte(value), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { write(string(before)) })
	write(value)
}

// requireTools skips a test of other programs that are not installed.
func requireTools(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("not tested: %s is not installed", tool)
		}
	}
}

// node is a holder process with a client, in a directory of its own.
type node struct {
	testing.TB
	dir    string
	socket string
	client *holder.Client
	// keep makes holders keep their volumes at their end, and unshare gives each
	// a mount namespace of its own, with the named propagation.
	keep    bool
	unshare string
	// transport is what volumes are attached with.
	transport fuse.Transport
}

// testContext bounds every call of a test: a hang must fail it.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func startNode(t testing.TB) *node {
	t.Helper()
	requireKernel(t)
	n := &node{TB: t, dir: t.TempDir()}
	n.socket = filepath.Join(n.dir, "holder.sock")
	n.startHolder("1m")
	t.Cleanup(n.tearDown)
	return n
}

func (n *node) mounts() string { return filepath.Join(n.dir, "mounts") }

func (n *node) startHolder(idle string) {
	n.Helper()
	config := holder.StartConfig{
		Socket: n.socket,
		Exe:    "/proc/self/exe",
		Args:   []string{n.socket, n.mounts(), idle},
		Env:    append(os.Environ(), roleEnv+"=holder"),
		Log:    os.Stderr,
	}
	if n.keep {
		config.Env = append(os.Environ(), roleEnv+"=keeping-holder")
	}
	if n.unshare != "" {
		exe, err := os.Executable()
		if err != nil {
			n.Fatal(err)
		}
		config.Exe, config.Args = "unshare", append([]string{"--mount", "--propagation", n.unshare, exe}, config.Args...)
	}
	ctx := testContext(n)
	client, err := holder.Start(ctx, config)
	// One that stays for a moment only may end before its client has come.
	for errors.Is(err, holder.ErrClosed) && ctx.Err() == nil {
		client, err = holder.Start(ctx, config)
	}
	if err != nil {
		n.Fatal(err)
	}
	n.client = client
}

// tearDown ends the holder and fails the test if anything of it is left.
func (n *node) tearDown() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if n.keep {
		n.killHolder() // nothing else ends one that keeps volumes without waiting
		n.awaitHolderEnd(ctx)
	}
	client, err := holder.Dial(ctx, n.socket)
	if err == nil {
		if err := client.Shutdown(ctx); err != nil {
			n.Error(err)
		}
		_ = client.Close()
		n.awaitHolderEnd(ctx)
	}
	_ = n.client.Close()
	n.checkLeaks()
}

// awaitHolderEnd waits for the directory's lock, which the holder has until
// its process ends.
func (n *node) awaitHolderEnd(ctx context.Context) {
	lock, err := os.Open(filepath.Join(n.mounts(), ".lock"))
	if err != nil {
		n.Fatal(err)
	}
	defer lock.Close()
	got := make(chan error, 1)
	go func() { got <- unix.Flock(int(lock.Fd()), unix.LOCK_EX) }()
	select {
	case err := <-got:
		if err != nil {
			n.Error(err)
		}
	case <-ctx.Done():
		n.Error("the holder does not end")
	}
}

// checkLeaks looks for loop devices and mounts in the test's directory.
func (n *node) checkLeaks() {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		n.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.dir) {
			n.Errorf("mount left behind: %s", line)
		}
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		n.Fatal(err)
	}
	for _, path := range backing {
		if file, err := os.ReadFile(path); err == nil && bytes.Contains(file, []byte(n.dir)) {
			n.Errorf("loop device left behind: %s: %s", path, file)
		}
	}
}

// newFile makes a file of sizeBytes zeroes for a fileDevice.
func (n *node) newFile(sizeBytes int64) string {
	n.Helper()
	f, err := os.CreateTemp(n.dir, "backing-")
	if err != nil {
		n.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(sizeBytes); err != nil {
		n.Fatal(err)
	}
	return f.Name()
}

// served is a volume that this process serves.
type served struct {
	device string // path of the block device
	stop   func() error
}

// serve attaches dev as volume and serves it in this process until stop or the
// end of the test.
func (n *node) serve(volume string, dev engine.Device, blockBytes int) served {
	n.Helper()
	ctx := testContext(n)
	session, err := n.client.Attach(ctx, holder.AttachConfig{
		Volume: volume, BlockBytes: blockBytes, ReadOnly: dev.ReadOnly(), Transport: n.transport,
	})
	if err != nil {
		n.Fatal(err)
	}
	if got := session.Init.Transport(); n.transport != "" && got != n.transport {
		n.Fatalf("attached over %s, want %s: %v", got, n.transport, session.Fallback)
	}
	serving, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		result <- fuse.Serve(serving, session, dev, fuse.Options{})
		_ = session.Conn.Close()
	}()
	stop := func() error {
		cancel()
		err := <-result
		result <- err // for a second call
		return err
	}
	n.Cleanup(func() {
		err := n.client.Detach(testContext(n), volume, false)
		if err != nil && !errors.Is(err, holder.ErrClosed) {
			n.Error(err)
		}
		_ = stop()
	})
	device, err := n.client.AttachLoop(ctx, volume)
	if err != nil {
		n.Fatal(err)
	}
	return served{device: device, stop: stop}
}

// engineProcess is an engine in a process of its own.
type engineProcess struct {
	cmd    *exec.Cmd
	out    io.Reader
	device string
	// attached is the device itself: its path is another's once it is gone.
	attached loop.Device
}

// startEngine starts one and waits until it serves and has its block device.
func (n *node) startEngine(volume, file string) *engineProcess {
	n.Helper()
	return n.startEngineAs("engine", volume, file, nil)
}

// startEngineAs is launchEngine and awaitDevice.
func (n *node) startEngineAs(role, volume, file string, change func(*exec.Cmd)) *engineProcess {
	n.Helper()
	e := n.launchEngine(role, volume, file, change)
	n.awaitDevice(e)
	return e
}

// launchEngine starts the process of a role, changed by change.
func (n *node) launchEngine(role, volume, file string, change func(*exec.Cmd)) *engineProcess {
	n.Helper()
	cmd := exec.Command("/proc/self/exe", n.socket, volume, file)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	if change != nil {
		change(cmd)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.Fatal(err)
	}
	e := &engineProcess{cmd: cmd, out: out}
	n.Cleanup(e.kill)
	return e
}

// awaitDevice waits until an engine serves and has its block device.
func (n *node) awaitDevice(e *engineProcess) {
	n.Helper()
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(e.out).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		if text == "" {
			n.Fatal("engine process ended before it served")
		}
		e.device = strings.TrimSpace(text)
		if number, isLoop := strings.CutPrefix(e.device, "/dev/loop"); isLoop {
			var err error
			if e.attached, err = loop.Get(atoi(n, number)); err != nil {
				n.Fatal(err)
			}
		}
	case <-testContext(n).Done():
		n.Fatal("engine process does not serve")
	}
}

// kill ends the process without any warning and collects it.
func (e *engineProcess) kill() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

// run runs a program that must succeed and returns its output.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func atoi(t testing.TB, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// deviceBytes is the size that users of a block device see.
func deviceBytes(t testing.TB, device string) int64 {
	t.Helper()
	return int64(atoi(t, run(t, "blockdev", "--getsize64", device)))
}
