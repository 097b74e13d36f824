package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// Fio says how a pod writes at random and reads everything back to compare.
type Fio struct {
	Name      string // of the pod
	Claim     string
	Block     bool
	Node      string // empty: any
	SizeBytes int64  // of the file, or of the part of the device; 64 MiB when 0
	RateIOPS  int    // writes per second; 500 when 0
}

// fioBlockBytes is the size of each write.
const fioBlockBytes = 4096

// FioRun is a fio in a pod.
type FioRun struct {
	ns     *Namespace
	pod    string
	path   string
	script string // runs fio until it ends
}

// FioResult is what fio measured until it was stopped.
type FioResult struct {
	Writes       int64
	LongestWrite time.Duration // from submission to completion: a pause of the device shows here
}

// fioReport is the part of fio's JSON that is looked at.
type fioReport struct {
	Jobs []struct {
		Error    int `json:"error"`
		TotalErr int `json:"total_err"`
		Write    struct {
			TotalIOs int64 `json:"total_ios"`
			Latency  struct {
				Max int64 `json:"max"` // nanoseconds
			} `json:"lat_ns"`
		} `json:"write"`
	} `json:"jobs"`
}

// StartFio starts fio in a pod of its own and waits until it writes.
func (n *Namespace) StartFio(f Fio) *FioRun {
	n.t.Helper()
	if f.SizeBytes == 0 {
		f.SizeBytes = 64 << 20
	}
	if f.RateIOPS == 0 {
		f.RateIOPS = 500
	}
	run := &FioRun{ns: n, pod: f.Name, path: "/dev/fio"}
	mount := "/dev/fio"
	if !f.Block {
		mount, run.path = "/data", "/data/fio"
	}
	args := []string{"fio", "--name=verify", "--filename=" + run.path, "--size=" + strconv.FormatInt(f.SizeBytes, 10),
		"--rw=randwrite", "--bs=" + strconv.Itoa(fioBlockBytes), "--direct=1", "--ioengine=libaio", "--iodepth=8", "--rate_iops=" + strconv.Itoa(f.RateIOPS),
		"--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1", "--verify_state_save=0", "--time_based", "--runtime=3600", "--thread",
		"--output=/tmp/fio.json", "--output-format=json"}
	run.script = strings.Join(args, " ") + " & echo $! > /tmp/fio.pid; status=0; wait $! || status=$?; echo $status > /tmp/fio.exit"
	// The pod outlives fio, so that its result can be fetched.
	n.RunPod(Pod{Name: f.Name, Node: f.Node, Script: run.script + "; " + idle, Mounts: []Mount{{Claim: f.Claim, Path: mount, Block: f.Block}}})
	run.AwaitWrites(1)
	return run
}

// Again starts fio anew in its pod, after Stop.
func (r *FioRun) Again() {
	r.ns.t.Helper()
	r.ns.Sh(r.pod, "rm /tmp/fio.pid /tmp/fio.exit /tmp/fio.json; { "+r.script+"; } </dev/null >/dev/null 2>&1 & while ! test -s /tmp/fio.pid; do sleep 0.05; done")
	r.AwaitWrites(1)
}

// For is the run for a subtest, which it then fails.
func (r *FioRun) For(t testing.TB) *FioRun {
	return &FioRun{ns: r.ns.For(t), pod: r.pod, path: r.path, script: r.script}
}

// AwaitWrites waits until fio has written n blocks since its start.
func (r *FioRun) AwaitWrites(n int) {
	r.ns.t.Helper()
	r.await(n, podTimeout)
}

// AwaitMore waits until fio has written n more blocks: until its device works
// again, after something was done to it.
func (r *FioRun) AwaitMore(n int) {
	t := r.ns.t
	t.Helper()
	written := 0
	WaitFor(t, podTimeout, "what fio in pod "+r.pod+" has written", func(ctx context.Context) (err error) {
		written, err = r.written(ctx)
		return err
	})
	r.await(written+n, podTimeout)
}

func (r *FioRun) await(n int, within time.Duration) {
	r.ns.t.Helper()
	WaitFor(r.ns.t, within, fmt.Sprintf("%d writes of fio in pod %s", n, r.pod), func(ctx context.Context) error {
		written, err := r.written(ctx)
		if err == nil && written < n {
			err = fmt.Errorf("%d blocks are written", written)
		}
		return err
	})
}

// written is how many blocks fio has written since its start.
func (r *FioRun) written(ctx context.Context) (int, error) {
	out, err := r.ns.Exec(ctx, r.ns.Namespace, r.pod, "sh", "-ec", "test ! -e /tmp/fio.exit || exit 3; sed -n 's/^write_bytes: //p' /proc/$(cat /tmp/fio.pid)/io")
	var exit ExitError
	if errors.As(err, &exit) && exit.Status == 3 {
		return 0, Final(fmt.Errorf("it has ended: %w", err))
	}
	if err != nil {
		return 0, err
	}
	var bytes int
	if _, err := fmt.Sscan(out, &bytes); err != nil {
		return 0, fmt.Errorf("written bytes %q: %w", out, err)
	}
	return bytes / fioBlockBytes, nil
}

// Stop ends fio in order and returns what it measured. It fails the test if
// fio had ended by itself, saw an I/O error, or read other data than it wrote.
func (r *FioRun) Stop() FioResult {
	t := r.ns.t
	t.Helper()
	result, err := r.stop(t.Context())
	if err != nil {
		t.Fatalf("fio in pod %s: %v", r.pod, err)
	}
	return result
}

func (r *FioRun) stop(ctx context.Context) (FioResult, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	if _, err := r.ns.Exec(ctx, r.ns.Namespace, r.pod, "sh", "-ec", "test ! -e /tmp/fio.exit; kill -INT $(cat /tmp/fio.pid)"); err != nil {
		out, _ := r.ns.Exec(ctx, r.ns.Namespace, r.pod, "sh", "-c", "cat /tmp/fio.exit /tmp/fio.json") // as much as there is
		return FioResult{}, fmt.Errorf("it had ended by itself: %w: %s", err, out)
	}
	var status, report string
	err := harness.Until(ctx, pollEvery, func() (err error) {
		if status, err = r.ns.Exec(ctx, r.ns.Namespace, r.pod, "cat", "/tmp/fio.exit"); err != nil {
			return err
		}
		report, err = r.ns.Exec(ctx, r.ns.Namespace, r.pod, "cat", "/tmp/fio.json")
		return err
	})
	if err != nil {
		return FioResult{}, fmt.Errorf("it does not end: %w", err)
	}
	return parseFio(strings.TrimSpace(status), report)
}

// parseFio reads the result of a fio that was interrupted: it then ends with
// 128 if there was no error. Complaints may stand before the JSON.
func parseFio(status, report string) (FioResult, error) {
	var parsed fioReport
	if err := json.Unmarshal([]byte(report[max(0, strings.Index(report, "{")):]), &parsed); err != nil || len(parsed.Jobs) != 1 {
		return FioResult{}, errors.Join(fmt.Errorf("no report: %.2000s", report), err)
	}
	job := parsed.Jobs[0]
	if (status != "0" && status != "128") || job.Error != 0 || job.TotalErr != 0 {
		return FioResult{}, fmt.Errorf("exit status %s, error %d, %d errors: %.2000s", status, job.Error, job.TotalErr, report)
	}
	if job.Write.TotalIOs == 0 {
		return FioResult{}, fmt.Errorf("it wrote nothing: %.2000s", report)
	}
	return FioResult{Writes: job.Write.TotalIOs, LongestWrite: time.Duration(job.Write.Latency.Max)}, nil
}
