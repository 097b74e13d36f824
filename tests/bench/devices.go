package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// deviceBytes is the size of each measured device.
const deviceBytes = 2 << 30

// What is measured. The volume of onBase has everything in its base image; that of
// onRoom has so large a journal that nothing is destaged while it is filled; onNull
// and onFile are the floor of the default transport, the one of what keeps no
// data, the other of what keeps it in place, without a journal.
const (
	onLoop = "loop"
	onOurs = "lockstep"
	onBase = "lockstep-base"
	onRoom = "lockstep-room"
	onQemu = "qemu-fuse"
	onRing = "lockstep-uring"
	onNull = "null-engine"
	onFile = "file-engine"
)

var kinds = []string{onLoop, onOurs, onBase, onRoom, onQemu, onRing, onNull, onFile}

// roomyJournal is more than is written to onRoom in a round, and more than memory keeps.
const roomyJournal = "16Gi"

// job is one fio workload with its target against the plain loop device.
type job struct {
	name   string
	args   []string
	target float64
	base   bool // is also measured on onBase
	room   bool // is also measured on onRoom
	files  bool // runs on an ext4 mounted from the device
	writes bool // is also measured on onFile
}

// on reports whether a job is measured on a device of the kind.
func (j job) on(kind string) bool {
	switch kind {
	case onBase:
		return j.base
	case onRoom:
		return j.room
	case onFile:
		return j.writes
	}
	return true
}

const (
	randomWrite32 = "4k random write QD32"
	randomRead32  = "4k random read QD32"
)

var jobs = []job{
	{name: "4k random write QD1", args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}, target: 2, writes: true},
	{name: randomWrite32, args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}, target: 1.5, writes: true},
	{name: "4k random read QD1", args: []string{"--rw=randread", "--bs=4k", "--iodepth=1"}, target: 0.8, base: true},
	{name: randomRead32, args: []string{"--rw=randread", "--bs=4k", "--iodepth=32"}, target: 1, base: true},
	{name: "1M sequential write QD4", args: []string{"--rw=write", "--bs=1M", "--iodepth=4"}, target: 0.95, room: true, writes: true},
	{name: "1M sequential read QD4", args: []string{"--rw=read", "--bs=1M", "--iodepth=4"}, target: 0.95},
	{name: "4k random write fsync=1", args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"}, target: 1, writes: true},
	{name: "4k random write fsync=1, 8 jobs", args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1", "--numjobs=8"}, target: 1, writes: true},
	{name: "ext4, 4 jobs 4k write+fsync", args: []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1", "--numjobs=4", "--size=32M"}, target: 1, files: true, writes: true},
}

// devices measures all jobs on all devices, interleaved.
func (b *bench) devices() error {
	targets, err := b.openDevices()
	if err != nil {
		return err
	}
	for round := range b.o.rounds {
		for _, j := range jobs {
			for _, kind := range kinds {
				target, ok := targets[kind]
				if !ok || j.files || !j.on(kind) || !strings.Contains(j.name, b.o.jobs) {
					continue
				}
				r, err := b.fio(target, j.args...)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", j.name, kind, err)
				}
				b.sample(j.name, kind, r.iops)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, b.o.rounds)
	}
	if err := b.fileJobs(targets); err != nil {
		return err
	}
	for _, j := range jobs {
		b.ratio(j.name, j.name, onOurs, onLoop, j.target)
		b.ratio(j.name+", over io_uring", j.name, onRing, onLoop, j.target)
		if j.base {
			b.ratio(j.name+", of the base", j.name, onBase, onLoop, j.target)
		}
		if j.room {
			b.ratio(j.name+", nothing to destage", j.name, onRoom, onLoop, j.target)
		}
	}
	for _, j := range jobs {
		b.floor(j.name, j.target, onNull)
		b.floor(j.name, j.target, onFile)
	}
	b.ratio(randomWrite32+", to qemu", randomWrite32, onOurs, onQemu, 5)
	b.ratio(randomRead32+", to qemu", randomRead32, onOurs, onQemu, 2)
	return nil
}

// floorPart is how much of what the transport allows a volume is to reach where
// the transport alone falls short of a job's target.
const floorPart = 0.9

// floor compares a job with an engine of the kind, if that is what keeps it from
// its target against the plain loop device.
func (b *bench) floor(name string, target float64, kind string) {
	floor, loop := median(b.Samples[name+", "+kind]), median(b.Samples[name+", "+onLoop])
	if floorPart*floor < target*loop {
		b.ratio(name+", to a "+strings.Replace(kind, "-", " ", 1), name, onOurs, kind, floorPart)
	}
}

// openDevices makes the devices on one disk and fills them.
func (b *bench) openDevices() (map[string]string, error) {
	targets := map[string]string{}
	for kind := range strings.SplitSeq(b.o.kinds, ",") {
		if !slices.Contains(kinds, kind) {
			return nil, fmt.Errorf("no device %q; there are %v", kind, kinds)
		}
		target, err := b.openDevice(kind)
		if err == nil {
			err = b.fill(target)
		}
		if err == nil && kind == onBase {
			err = b.drained(onBase)
		}
		if err != nil {
			return nil, fmt.Errorf("make device %s: %w", kind, err)
		}
		targets[kind] = target
	}
	return targets, nil
}

func (b *bench) openDevice(kind string) (string, error) {
	switch kind {
	case onLoop:
		return b.plainLoop("plain")
	case onQemu:
		return b.qemuExport()
	case onRing:
		return b.overRing()
	case onNull:
		return b.nullEngine()
	case onFile:
		return b.fileEngine("file")
	}
	parameters := map[string]string{"blockSize": "4096"}
	switch kind {
	case onBase:
		parameters["journalSize"] = "64Mi"
	case onRoom:
		parameters["journalSize"] = roomyJournal
	}
	v, err := b.volume(kind, deviceBytes, parameters)
	if err != nil {
		return "", err
	}
	b.env.Undo(func() error { return b.site.Unpublish(b.ctx, v, true) })
	return v.Target, nil
}

// drained waits until nearly all of a volume's journal is in its base.
func (b *bench) drained(group string) error {
	return harness.Until(b.ctx, 200*time.Millisecond, func() error {
		status, err := b.site.Admin.GetStatus(b.ctx, &adminv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		for _, v := range status.Volumes {
			if v.Group == group && v.JournalBytes > 192<<20 {
				return fmt.Errorf("volume %s has %d bytes in its journal yet", v.Id, v.JournalBytes)
			}
		}
		return nil
	})
}

// fileJobs runs the jobs that need a file system.
func (b *bench) fileJobs(targets map[string]string) error {
	chosen := slices.DeleteFunc(slices.Clone(jobs), func(j job) bool { return !j.files || !strings.Contains(j.name, b.o.jobs) })
	if len(chosen) == 0 {
		return nil
	}
	dirs := map[string]string{}
	for _, kind := range []string{onLoop, onOurs, onFile} {
		if targets[kind] == "" {
			continue
		}
		dir, err := b.mountNew("fs-"+kind, targets[kind])
		if err != nil {
			return err
		}
		dirs[kind] = dir
	}
	for range b.o.rounds {
		for _, j := range chosen {
			for kind, dir := range dirs {
				r, err := b.fio(dir, j.args...)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", j.name, kind, err)
				}
				b.sample(j.name, kind, r.iops)
			}
		}
	}
	return nil
}

// mountNew makes an ext4 on a device and mounts it.
func (b *bench) mountNew(name, device string) (string, error) {
	dir := b.env.Path(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if _, err := harness.Run(b.ctx, "mkfs.ext4", "-q", "-F", "-E", "nodiscard", device); err != nil {
		return "", err
	}
	if _, err := harness.Run(b.ctx, "mount", device, dir); err != nil {
		return "", err
	}
	b.env.Undo(func() error { return harness.Unmount(dir) })
	return dir, nil
}
