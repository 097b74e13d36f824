package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// deviceBytes is the size of each measured device; fioBytes the part of it
// that is read and written, so that nothing is measured that was not written.
const (
	deviceBytes = 2 << 30
	fioBytes    = 1 << 30
)

// job is one fio workload with its target against the plain loop device.
type job struct {
	name   string
	args   []string
	target float64
	files  bool // runs on an ext4 mounted from the device
}

var jobs = []job{
	{name: "4k random write QD1", args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}, target: 0.6},
	{name: "4k random write QD32", args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}, target: 0.8},
	{name: "4k random read QD1", args: []string{"--rw=randread", "--bs=4k", "--iodepth=1"}, target: 0.3},
	{name: "4k random read QD32", args: []string{"--rw=randread", "--bs=4k", "--iodepth=32"}, target: 0.3},
	{name: "1M sequential write QD4", args: []string{"--rw=write", "--bs=1M", "--iodepth=4"}},
	{name: "1M sequential read QD4", args: []string{"--rw=read", "--bs=1M", "--iodepth=4"}, target: 0.3},
	{name: "4k random write fsync=1", args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"}},
	{name: "ext4, 4 jobs 4k write+fsync", args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1", "--numjobs=4", "--size=32M"}, files: true},
}

// Names of the devices in tables and samples.
const (
	onLoop = "loop"
	onOurs = "lockstep"
	onQemu = "qemu-fuse"
)

// devices measures all jobs on all devices, interleaved.
func (b *bench) devices() error {
	targets, err := b.openDevices()
	if err != nil {
		return err
	}
	for _, name := range []string{onLoop, onOurs, onQemu} {
		if err := b.fill(targets[name]); err != nil {
			return err
		}
	}
	for round := range b.o.rounds {
		for _, j := range jobs {
			if j.files {
				continue
			}
			for _, name := range []string{onLoop, onOurs, onQemu} {
				iops, err := b.fio(targets[name], j)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", j.name, name, err)
				}
				b.sample(j.name, name, iops)
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, b.o.rounds, j.name)
		}
	}
	if err := b.fileJobs(targets); err != nil {
		return err
	}
	b.printRatios()
	return nil
}

// openDevices makes the three devices on one disk.
func (b *bench) openDevices() (map[string]string, error) {
	plain, err := b.plainLoop()
	if err != nil {
		return nil, err
	}
	v, err := b.site.CreateVolume(b.ctx, harness.VolumeSpec{Name: "bench", SizeBytes: deviceBytes, Parameters: map[string]string{"blockSize": "4096"}})
	if err != nil {
		return nil, err
	}
	if err := b.site.Publish(b.ctx, v); err != nil {
		return nil, err
	}
	b.env.Undo(func() error { return b.site.Unpublish(b.ctx, v, true) })
	qemu, err := b.qemuExport()
	if err != nil {
		return nil, err
	}
	return map[string]string{onLoop: plain, onOurs: v.Target, onQemu: qemu}, nil
}

// fileJobs runs the jobs that need a file system.
func (b *bench) fileJobs(targets map[string]string) error {
	dirs := map[string]string{}
	for _, name := range []string{onLoop, onOurs} {
		dir := b.env.Path("fs-" + name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if _, err := harness.Run(b.ctx, "mkfs.ext4", "-q", "-F", "-E", "nodiscard", targets[name]); err != nil {
			return err
		}
		device := targets[name]
		if _, err := harness.Run(b.ctx, "mount", device, dir); err != nil {
			return err
		}
		b.env.Undo(func() error { return harness.Unmount(dir) })
		dirs[name] = dir
	}
	for range b.o.rounds {
		for _, j := range jobs {
			for _, name := range []string{onLoop, onOurs} {
				if !j.files {
					continue
				}
				iops, err := b.fio(dirs[name], j)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", j.name, name, err)
				}
				b.sample(j.name, name, iops)
			}
		}
	}
	for _, dir := range dirs {
		if err := harness.Unmount(dir); err != nil {
			return err
		}
	}
	return nil
}

// printRatios prints the table of medians.
func (b *bench) printRatios() {
	fmt.Printf("\n%-30s %10s %10s %10s %8s %8s %8s\n", "IOPS, medians", onLoop, onOurs, onQemu, "to loop", "target", "to qemu")
	fmt.Println(strings.Repeat("-", 94))
	for _, j := range jobs {
		s := b.Samples[j.name]
		loop, ours, qemu := median(s[onLoop]), median(s[onOurs]), median(s[onQemu])
		target, verdict := "-", ""
		if j.target > 0 {
			target, verdict = fmt.Sprintf(">=%.1f", j.target), "pass"
			if ours/loop < j.target {
				verdict = "short"
			}
		}
		toQemu := "-"
		if qemu > 0 {
			toQemu = fmt.Sprintf("%.2f", ours/qemu)
		}
		fmt.Printf("%-30s %10.0f %10.0f %10.0f %8.2f %8s %8s  %s\n", j.name, loop, ours, qemu, ours/loop, target, toQemu, verdict)
	}
	fmt.Println()
}
