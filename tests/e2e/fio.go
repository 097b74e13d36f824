package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
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
	ns   *Namespace
	pod  string
	path string
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
	// The pod outlives fio, so that its result can be fetched.
	script := strings.Join(args, " ") + " & echo $! > /tmp/fio.pid; wait $!; echo $? > /tmp/fio.exit; " + idle
	n.RunPod(Pod{Name: f.Name, Node: f.Node, Script: script, Mounts: []Mount{{Claim: f.Claim, Path: mount, Block: f.Block}}})
	run.AwaitWrites(1)
	return run
}

// AwaitWrites waits until fio has written n blocks since its start.
func (r *FioRun) AwaitWrites(n int) {
	t := r.ns.t
	t.Helper()
	WaitFor(t, podTimeout, fmt.Sprintf("%d writes of fio in pod %s", n, r.pod), func(ctx context.Context) error {
		out, err := r.ns.Exec(ctx, r.ns.Namespace, r.pod, "sh", "-ec", "sed -n 's/^write_bytes: //p' /proc/$(cat /tmp/fio.pid)/io")
		if err != nil {
			return err
		}
		var written int
		if _, err := fmt.Sscan(out, &written); err != nil {
			return fmt.Errorf("written bytes %q: %w", out, err)
		}
		if written < n*fioBlockBytes {
			return fmt.Errorf("%d bytes are written", written)
		}
		return nil
	})
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
