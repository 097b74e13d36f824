package enginepod_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
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

// Under verified I/O an engine's process is told to end, or killed, with another
// one waiting, again and again. Nobody orders anything, and there is no
// controller. fio sees no error, and pauses of less than a second.
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
	fio := exec.CommandContext(within(t, 5*time.Minute), "fio", "--name=verify", "--filename="+state.Device, "--rw=randwrite", "--bs=4k", "--size=32M",
		"--ioengine=libaio", "--iodepth=8", "--direct=1", "--verify=crc32c", "--verify_backlog=256", "--time_based", "--runtime=1d", "--rate_iops=500", "--output-format=json")
	fio.Stdout, fio.Stderr = &said, &complaints
	if err := fio.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- fio.Wait() }()
	now, at := n.proc, n.cfg
	n.proc = nil
	for k := range handovers {
		next, cfg := n.successor()
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
	longest := longestWrite(t, said.Bytes())
	t.Logf("%d handovers, the longest write took %v", handovers, longest)
	if longest > 5*time.Second {
		t.Errorf("a write took %v", longest)
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

func longestWrite(t *testing.T, report []byte) time.Duration {
	t.Helper()
	var parsed struct {
		Jobs []struct {
			Write struct {
				Latency struct {
					Max int64 `json:"max"`
				} `json:"lat_ns"`
			} `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(report[max(0, bytes.IndexByte(report, '{')):], &parsed); err != nil || len(parsed.Jobs) != 1 {
		t.Fatalf("no report of fio: %v: %s", err, report)
	}
	return time.Duration(parsed.Jobs[0].Write.Latency.Max)
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
	told := time.Now()
	if err := n.proc.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	leaving := false
	err = client.Watch(within(t, 30*time.Second), func(s control.State) {
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
