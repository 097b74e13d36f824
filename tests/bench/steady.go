package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// steadyJournalBytes is the journal's size in the steady state, of which three
// times as much is written.
const steadyJournalBytes = 1 << 30

// steady measures 4k random writes for much longer than the journal lasts, so
// that destage has to keep up.
func (b *bench) steady() error {
	plain, err := b.plainLoop("steady")
	if err != nil {
		return err
	}
	v, err := b.volume("steady", deviceBytes, map[string]string{"blockSize": "4096", "journalSize": fmt.Sprint(int64(steadyJournalBytes))})
	if err != nil {
		return err
	}
	b.env.Undo(func() error { return b.site.Unpublish(b.ctx, v, true) })
	const name = "4k random write QD32 for three journals"
	slow := map[string]float64{}
	for _, device := range []struct{ kind, target string }{{onLoop, plain}, {onOurs, v.Target}} {
		if err := b.fill(device.target); err != nil {
			return err
		}
		seconds, p999, err := b.everySecond(device.target, device.kind)
		if err != nil {
			return err
		}
		slow[device.kind] = p999
		for _, iops := range seconds {
			b.sample(name, device.kind, iops)
		}
	}
	b.ratio(name, name, onOurs, onLoop, 0.85)
	b.figure("latency of its writes, p99.9", slow[onOurs], 10, "ms")
	fmt.Fprintf(os.Stderr, "p99.9 of the latency for three journals: %.2f ms, plain loop %.2f ms\n", slow[onOurs], slow[onLoop])
	ours, loop := b.Samples[name+", "+onOurs], median(b.Samples[name+", "+onLoop])
	if len(ours) > 0 && loop > 0 {
		slowest := slices.Min(ours)
		b.Rows = append(b.Rows, row{Name: "the slowest second of it", Value: slowest / loop, Target: 0.5, Ours: slowest, Yardstick: loop})
	}
	return nil
}

// everySecond writes three journals and returns the IOPS of each whole second, and
// what one write in a thousand took longer than, in ms.
func (b *bench) everySecond(target, kind string) (all []float64, p999 float64, err error) {
	log := b.env.Path("steady-" + kind)
	r, err := b.runFio("--name=steady", "--filename="+target, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--norandommap",
		fmt.Sprintf("--size=%d", int64(fioBytes)), fmt.Sprintf("--io_size=%d", int64(3*steadyJournalBytes)),
		"--write_iops_log="+log, "--log_avg_msec=1000")
	if err != nil {
		return nil, 0, err
	}
	// Each line: milliseconds, IOPS, direction, …
	raw, err := os.ReadFile(log + "_iops.1.log")
	if err != nil {
		return nil, 0, err
	}
	for line := range strings.Lines(string(raw)) {
		_, rest, _ := strings.Cut(line, ",")
		value, _, _ := strings.Cut(rest, ",")
		iops, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			return nil, 0, fmt.Errorf("read fio's log: %w", err)
		}
		all = append(all, iops)
	}
	if len(all) < 2 {
		return nil, 0, fmt.Errorf("fio's log has %d seconds", len(all))
	}
	return all[:len(all)-1], r.p999, nil // the last second is not a whole one
}
