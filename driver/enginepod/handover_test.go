package enginepod_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// successor starts another process on the same backing volume, with an address
// of its own, and returns when it is up.
func (n *node) successor() (*exec.Cmd, enginepod.ProcessConfig) {
	n.t.Helper()
	cfg := n.cfg
	cfg.Listen, cfg.HealthAddr = freeAddress(n.t), freeAddress(n.t)
	proc := n.spawn(cfg)
	untilAnswer(n.t, "http://"+cfg.HealthAddr+"/healthz", http.StatusOK)
	return proc, cfg
}

func untilAnswer(t *testing.T, url string, want int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if got, err := http.Get(url); err == nil {
			got.Body.Close()
			if got.StatusCode == want {
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s does not answer %d", url, want)
		}
	}
}

// handovers is how often an engine is replaced under I/O.
const handovers = 40

// fioBeside are the arguments of a fio that writes to a device, verified, and beside it to
// a plain file on the disk that the engine has its store on.
func fioBeside(device, plain string) []string {
	return []string{"--ioengine=libaio", "--time_based", "--runtime=1d", "--bs=4k", "--rw=randwrite", "--output-format=json",
		"--name=verify", "--filename=" + device, "--size=32M", "--iodepth=8", "--direct=1", "--verify=crc32c", "--verify_backlog=256", "--rate_iops=500",
		"--name=plain", "--filename=" + plain, "--size=4M", "--iodepth=1", "--sync=dsync", "--rate_iops=50"}
}

// longestHold is how long a handover may hold a write: 5 s on a machine that has nothing
// else to do, where it takes some 50 ms. On another one it is what the machine makes of it: some
// twenty syncs in a row, each of which may take what the longest one took that went to a plain file
// meanwhile, and a process that opens a store, which is more than to start and to answer, for
// which start was the longest time.
func longestHold(plain, start time.Duration) time.Duration {
	return 5*time.Second + 20*plain + 5*start
}

// Under verified I/O an engine's process is told to end, or killed, with another
// one waiting, again and again. Nobody orders anything, and there is no
// controller. fio sees no error, and no pause that the machine did not make.
func TestEngineProcessesAreHandedOverUnderIO(t *testing.T) {
	n := newNode(t)
	if _, err := exec.LookPath("fio"); err != nil {
		t.Skip("handing an engine over under I/O not tested: fio is not installed")
	}
	n.cfg.HandoverWait = time.Minute
	n.cfg.HealthAddr = freeAddress(t)
	n.start()
	client := control.NewClient(n.cfg.Volume, n.dial(certs.RoleController))
	state, err := client.Order(within(t, 30*time.Second), n.orders(1))
	if err != nil || state.Device == "" {
		t.Fatalf("order: %+v, %v", state, err)
	}
	var said, complaints bytes.Buffer
	fio := exec.CommandContext(within(t, 5*time.Minute), "fio", fioBeside(state.Device, filepath.Join(n.dir, "plain"))...)
	fio.Stdout, fio.Stderr = &said, &complaints
	if err := fio.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- fio.Wait() }()
	now, at := n.proc, n.cfg
	n.proc = nil
	var slowest time.Duration
	for k := range handovers {
		began := time.Now()
		next, cfg := n.successor()
		slowest = max(slowest, time.Since(began))
		awaitLoad(t, state.Device, done)
		how := syscall.SIGTERM
		if k%3 == 2 {
			how = syscall.SIGKILL
		}
		if err := now.Process.Signal(how); err != nil {
			t.Fatal(err)
		}
		if err := now.Wait(); err != nil && how == syscall.SIGTERM {
			t.Errorf("the engine that was told to end ended with %v", err)
		}
		untilAnswer(t, "http://"+cfg.HealthAddr+"/readyz", http.StatusOK)
		now, at = next, cfg
	}
	awaitLoad(t, state.Device, done)
	if err := fio.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	// Interrupted, fio ends with 128 if there was no error.
	var exit *exec.ExitError
	if err := <-done; err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 128) {
		t.Errorf("fio: %v\n%s%s", err, said.String(), complaints.String())
	}
	longest, plain := longestWrites(t, said.Bytes())
	t.Logf("%d handovers, the longest write took %v, to a plain file %v; the longest start of a process %v", handovers, longest, plain, slowest)
	if limit := longestHold(plain, slowest); longest > limit {
		t.Errorf("a write took %v, and was to take %v at most", longest, limit)
	}
	n.cfg = at
	o := n.orders(2)
	o.Attach = nil
	client = control.NewClient(n.cfg.Volume, n.dial(certs.RoleController))
	if state, err = client.Order(within(t, 30*time.Second), o); err != nil || state.Device != "" {
		t.Errorf("detach: %+v, %v", state, err)
	}
	// Without a device nobody is waited for.
	if err := now.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := now.Wait(); err != nil {
		t.Errorf("engine ended with %v", err)
	}
}

// awaitLoad returns when a device has served fio for a while.
func awaitLoad(t *testing.T, device string, ended <-chan error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for from := completed(t, device); completed(t, device) < from+150; {
		select {
		case err := <-ended:
			t.Fatalf("fio ended early: %v", err)
		case <-tick.C:
		}
	}
}

// longestWrites are those of the jobs of fioBeside.
func longestWrites(t *testing.T, report []byte) (device, plain time.Duration) {
	t.Helper()
	var parsed struct {
		Jobs []struct {
			Write struct {
				Count   int64 `json:"total_ios"`
				Latency struct {
					Max int64 `json:"max"`
				} `json:"lat_ns"`
			} `json:"write"`
		} `json:"jobs"`
	}
	err := json.Unmarshal(report[max(0, bytes.IndexByte(report, '{')):], &parsed)
	if err != nil || len(parsed.Jobs) != 2 || parsed.Jobs[0].Write.Count == 0 || parsed.Jobs[1].Write.Count == 0 {
		t.Fatalf("no report of fio: %v: %s", err, report)
	}
	return time.Duration(parsed.Jobs[0].Write.Latency.Max), time.Duration(parsed.Jobs[1].Write.Latency.Max)
}

// An engine that is told to end and has a device says so, serves on, and ends
// when its time is over although no successor has come.
func TestAnEngineThatLeavesServesOnForATime(t *testing.T) {
	n := newNode(t)
	n.cfg.HandoverWait = time.Second
	n.start()
	client := control.NewClient(n.cfg.Volume, n.dial(certs.RoleController))
	state, err := client.Order(within(t, 30*time.Second), n.orders(1))
	if err != nil || state.Device == "" {
		t.Fatalf("order: %+v, %v", state, err)
	}
	// Who begins to watch when it has been told may come too late.
	var told time.Time
	leaving := false
	err = client.Watch(within(t, 30*time.Second), func(s control.State) {
		if told.IsZero() {
			told = time.Now()
			if err := n.proc.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		if s.Leaving {
			leaving = s.Device != ""
		}
	})
	if err == nil || !leaving {
		t.Errorf("it did not say that it leaves while it serves; the watch ended with %v", err)
	}
	if err := n.proc.Wait(); err != nil {
		t.Errorf("engine ended with %v", err)
	}
	n.proc = nil
	if took := time.Since(told); took < n.cfg.HandoverWait {
		t.Errorf("it served on for %v, and was to for %v", took, n.cfg.HandoverWait)
	}
	n.cfg.HandoverWait = 0
	n.start()
	o := n.orders(2)
	o.Attach = nil
	if state, err := client.Order(within(t, 30*time.Second), o); err != nil || state.Device != "" {
		t.Errorf("detach: %+v, %v", state, err)
	}
}
