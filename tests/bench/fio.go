package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// fio runs one job on a device, file or directory and returns its IOPS.
func (b *bench) fio(target string, j job) (float64, error) {
	where := "--filename=" + target
	if info, err := os.Stat(target); err == nil && info.IsDir() {
		where = "--directory=" + target
	}
	args := []string{
		"--name=bench", where, "--ioengine=io_uring", "--direct=1", "--time_based", "--group_reporting", "--output-format=json",
		fmt.Sprintf("--runtime=%d", b.o.seconds), fmt.Sprintf("--size=%d", int64(fioBytes)), "--randrepeat=0",
	}
	out, err := harness.Run(b.ctx, "fio", append(args, j.args...)...)
	if err != nil {
		return 0, err
	}
	var result struct {
		Jobs []struct {
			Error       int
			Read, Write struct{ IOPS float64 }
		}
	}
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):]), &result); err != nil {
		return 0, fmt.Errorf("read fio's result: %w", err)
	}
	if len(result.Jobs) != 1 || result.Jobs[0].Error != 0 {
		return 0, fmt.Errorf("fio reports an error: %s", out)
	}
	return result.Jobs[0].Read.IOPS + result.Jobs[0].Write.IOPS, nil
}

// fill writes the measured part of a device once.
func (b *bench) fill(target string) error {
	_, err := harness.Run(b.ctx, "fio", "--name=fill", "--filename="+target, "--ioengine=io_uring", "--direct=1", "--rw=write", "--bs=1M",
		"--iodepth=4", fmt.Sprintf("--size=%d", int64(fioBytes)), "--end_fsync=1", "--output-format=json")
	return err
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile is the smallest value that at least that part of v does not exceed.
func quantile(v []float64, part float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	i := int(part*float64(len(v))+0.999999) - 1
	return v[min(max(i, 0), len(v)-1)]
}

// save keeps the raw samples.
func (b *bench) save() error {
	if b.o.out == "" {
		return nil
	}
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.o.out, append(raw, '\n'), 0o644)
}
