package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// fioBytes is the part of each device that is read and written, so that
// nothing is measured that was not written before.
const fioBytes = 1 << 30

// fioResult is what one run of fio measured, all its jobs together.
type fioResult struct {
	iops     float64
	requests int64
	p999     float64 // of the writes' latencies, in ms; of several jobs the longest
}

// fio runs one workload on a device, file or directory for the time of a
// sample.
func (b *bench) fio(target string, args ...string) (fioResult, error) {
	where := "--filename=" + target
	if info, err := os.Stat(target); err == nil && info.IsDir() {
		where = "--directory=" + target
	}
	return b.runFio(append([]string{"--name=bench", where, "--group_reporting", "--time_based",
		fmt.Sprintf("--runtime=%d", b.o.seconds), fmt.Sprintf("--size=%d", int64(fioBytes))}, args...)...)
}

// runFio runs fio with direct I/O through io_uring.
func (b *bench) runFio(args ...string) (fioResult, error) {
	out, err := harness.Run(b.ctx, "fio", append([]string{"--ioengine=io_uring", "--direct=1", "--randrepeat=0", "--output-format=json"}, args...)...)
	if err != nil {
		return fioResult{}, err
	}
	var parsed struct {
		Jobs []struct {
			Error       int
			Read, Write struct {
				IOPS     float64
				TotalIOs int64 `json:"total_ios"`
				Latency  struct {
					Percentile map[string]float64
				} `json:"clat_ns"`
			}
		}
	}
	start := strings.Index(out, "{")
	if start < 0 {
		return fioResult{}, fmt.Errorf("fio printed no result: %s", out)
	}
	if err := json.Unmarshal([]byte(out[start:]), &parsed); err != nil {
		return fioResult{}, fmt.Errorf("read fio's result: %w", err)
	}
	var r fioResult
	for _, j := range parsed.Jobs {
		if j.Error != 0 {
			return fioResult{}, fmt.Errorf("fio reports error %d: %s", j.Error, out)
		}
		r.iops += j.Read.IOPS + j.Write.IOPS
		r.p999 = max(r.p999, j.Write.Latency.Percentile["99.900000"]/1e6)
		r.requests += j.Read.TotalIOs + j.Write.TotalIOs
	}
	if r.iops == 0 {
		return fioResult{}, fmt.Errorf("fio did nothing: %s", out)
	}
	return r, nil
}

// fill writes the measured part of a device once.
func (b *bench) fill(target string) error {
	_, err := b.runFio("--name=fill", "--filename="+target, "--rw=write", "--bs=1M", "--iodepth=4",
		fmt.Sprintf("--size=%d", int64(fioBytes)), "--end_fsync=1")
	return err
}
