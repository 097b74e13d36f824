package enginepod_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/loopback"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// processEnv makes the test binary play an engine process, so that tests can
// kill one. It has the configuration as JSON.
const processEnv = "LOCKSTEP_TEST_ENGINE"

func TestMain(m *testing.M) {
	raw := os.Getenv(processEnv)
	if raw == "" {
		goleak.VerifyTestMain(m)
		return
	}
	var cfg enginepod.ProcessConfig
	err := json.Unmarshal([]byte(raw), &cfg)
	if err == nil {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err = enginepod.Run(ctx, cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// node is this machine as a node of a cluster: a holder, certificates, and a
// backing volume.
type node struct {
	t    *testing.T
	dir  string
	cfg  enginepod.ProcessConfig
	proc *exec.Cmd
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("engine processes not tested: FUSE mounts and loop devices need root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("engine processes not tested: %v", err)
	}
	n := &node{t: t, dir: t.TempDir()}
	n.issue()
	socket := n.keep("holder")
	store := filepath.Join(n.dir, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	n.cfg = enginepod.ProcessConfig{Volume: journal.VolumeID{1}, StoreDir: store, Listen: freeAddress(t), HolderSocket: socket,
		TLSDir: n.certs(certs.RoleEngine), Version: "test"}
	return n
}

func (n *node) certs(role certs.Role) string { return filepath.Join(n.dir, "tls", string(role)) }

// issue makes the certificates of the cluster's roles.
func (n *node) issue() {
	authority, err := certs.NewAuthority(time.Now())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, role := range []certs.Role{certs.RoleController, certs.RoleEngine, certs.RoleGateway} {
		id, err := authority.Issue(certs.Request{Site: "a", Role: role, Now: time.Now()})
		if err == nil {
			err = id.Save(n.certs(role), false)
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
}

// keep runs a holder until the end of the test.
func (n *node) keep(name string) (socket string) {
	socket = filepath.Join(n.dir, name+".sock")
	ctx, stop := context.WithCancel(context.Background())
	var holding sync.WaitGroup
	holding.Go(func() {
		err := holder.Run(ctx, holder.Config{Socket: socket, Dir: filepath.Join(n.dir, name), IdleTimeout: -1})
		if err != nil {
			n.t.Error(err)
		}
	})
	n.t.Cleanup(func() { stop(); holding.Wait() })
	return socket
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// start starts the engine's process.
func (n *node) start() {
	n.t.Helper()
	n.proc = n.spawn(n.cfg)
}

// spawn starts an engine's process, which is killed at the end of the test.
func (n *node) spawn(cfg enginepod.ProcessConfig) *exec.Cmd {
	n.t.Helper()
	raw, err := json.Marshal(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	proc := exec.Command(os.Args[0])
	proc.Env = append(os.Environ(), processEnv+"="+string(raw))
	proc.Stderr = os.Stderr
	if err := proc.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { kill(proc) })
	return proc
}

// kill ends the process without a word and waits for it.
func (n *node) kill() {
	if n.proc == nil {
		return
	}
	kill(n.proc)
	n.proc = nil
}

func kill(proc *exec.Cmd) {
	_ = proc.Process.Kill() // it may have ended
	_ = proc.Wait()         // it reports the kill
}

// dial connects to the engine with the certificate of a role.
func (n *node) dial(role certs.Role) *grpc.ClientConn {
	n.t.Helper()
	config, err := certs.RoleClientTLS(n.certs(role), certs.RoleEngine)
	if err != nil {
		n.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:"+n.cfg.Listen, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			n.t.Error(err)
		}
	})
	return conn
}

func (n *node) orders(revision uint64) control.Orders {
	return control.Orders{Volume: n.cfg.Volume, Term: 1, Revision: revision, Group: "shop", Role: control.Primary, Window: time.Hour, Writable: true,
		SizeBytes: 64 << 20, Attach: &control.Attach{BlockBytes: 4096}}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// completed is how many requests a device has completed; see the kernel's
// Documentation/block/stat.rst.
func completed(t *testing.T, device string) (n int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "stat"))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 5 {
		t.Fatalf("requests of %s: %q, %v", device, text, err)
	}
	for _, field := range []string{fields[0], fields[4]} { // reads and writes
		k, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		n += k
	}
	return n
}

// An engine process that is killed under verified I/O is replaced by another
// one that nobody orders anything: fio sees pauses and no errors.
func TestAnEngineProcessIsReplacedUnderIO(t *testing.T) {
	n := newNode(t)
	if _, err := exec.LookPath("fio"); err != nil {
		t.Skip("replacing an engine under I/O not tested: fio is not installed")
	}
	n.start()
	client := control.NewClient(n.cfg.Volume, n.dial(certs.RoleController))
	state, err := client.Order(within(t, 30*time.Second), n.orders(1))
	if err != nil || state.Device == "" {
		t.Fatalf("order: %+v, %v", state, err)
	}
	var said bytes.Buffer
	fio := exec.CommandContext(within(t, 2*time.Minute), "fio", "--name=verify", "--filename="+state.Device, "--rw=randwrite", "--bs=4k", "--size=32M",
		"--ioengine=libaio", "--iodepth=16", "--direct=1", "--verify=crc32c", "--do_verify=1", "--loops=4", "--rate_iops=4000", "--output-format=terse")
	fio.Stdout, fio.Stderr = &said, &said
	if err := fio.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- fio.Wait() }()
	const between = 4000 // requests, from kill to kill
	kills, last := 0, completed(t, state.Device)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("fio: %v\n%s", err, said.String())
			}
			running = false
		case <-tick.C:
			if now := completed(t, state.Device); now >= last+between {
				n.kill()
				n.start()
				kills, last = kills+1, now
			}
		}
	}
	if kills < 3 {
		t.Errorf("only %d kills while fio ran: nothing was tested", kills)
	}
	t.Logf("%d kills", kills)
	o := n.orders(2)
	o.Attach = nil
	if state, err = client.Order(within(t, 30*time.Second), o); err != nil || state.Device != "" {
		t.Errorf("detach: %+v, %v", state, err)
	}
	if err := n.proc.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := n.proc.Wait(); err != nil {
		t.Errorf("engine ended with %v", err)
	}
	n.proc = nil
}

func TestRolesMayCallWhatIsTheirs(t *testing.T) {
	n := newNode(t)
	n.start()
	for _, tt := range []struct {
		role certs.Role
		want codes.Code
	}{
		{certs.RoleController, codes.OK},
		{certs.RoleGateway, codes.PermissionDenied},
		{certs.RoleEngine, codes.PermissionDenied},
	} {
		o := n.orders(1)
		o.Attach = nil
		_, err := control.NewClient(n.cfg.Volume, n.dial(tt.role)).Order(within(t, 30*time.Second), o)
		if status.Code(errors.Unwrap(err)) != tt.want && status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %v", tt.role, err, tt.want)
		}
	}
	config, err := certs.RoleClientTLS(n.certs(certs.RoleGateway), certs.RoleController)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:"+n.cfg.Listen, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := control.NewClient(n.cfg.Volume, conn).Dirty(within(t, 30*time.Second)); status.Code(errors.Unwrap(err)) != codes.Unavailable {
		t.Errorf("an engine was taken for a controller: %v", err)
	}
}
