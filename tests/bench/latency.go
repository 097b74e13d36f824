package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// idle measures the memory of a site that serves one idle volume.
func (b *bench) idle() error {
	v, err := b.volume("idle", 64<<20, nil)
	if err != nil {
		return err
	}
	rss, err := b.rss()
	if err != nil {
		return err
	}
	b.figure("idle site with one attached volume, RSS", rss/(1<<20), 64, "MiB")
	return b.site.Unpublish(b.ctx, v, true)
}

// rss is the resident memory of the site's process in bytes.
func (b *bench) rss() (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.site.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", b.site.PID())
}

const (
	snapshotCount = 100
	pointCount    = 1000
)

// checkpoints measures snapshots and checkpoint stalls of a group of two
// volumes while both are written to.
func (b *bench) checkpoints() error {
	var members []*harness.Volume
	for _, name := range []string{"one", "two"} {
		v, err := b.volume(name, 1<<30, map[string]string{"group": "pair"})
		if err != nil {
			return err
		}
		members = append(members, v)
	}
	loadCtx, stop := context.WithCancel(b.ctx)
	defer stop()
	var load []*exec.Cmd
	for _, v := range members {
		c := exec.CommandContext(loadCtx, "fio", "--name=load", "--filename="+v.Target, "--ioengine=io_uring", "--direct=1", "--rw=randwrite",
			"--bs=4k", "--iodepth=4", "--size=512M", "--time_based", "--runtime=600", "--rate_iops=4000", "--thread", "--output=/dev/null")
		if err := c.Start(); err != nil {
			return err
		}
		load = append(load, c)
	}
	err := b.underLoad(members[0])
	stop()
	for _, c := range load {
		_ = c.Wait() // ended by us
	}
	if err != nil {
		return err
	}
	// A killed fio's requests keep the devices open for a moment longer.
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	for _, v := range members {
		err := harness.Until(ctx, 50*time.Millisecond, func() error { return b.site.Unpublish(ctx, v, true) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) underLoad(v *harness.Volume) error {
	var snapshots, stalls []float64
	// fio starts, and the volumes take their first writes.
	for range 20 {
		if err := b.point(&stalls); err != nil {
			return err
		}
	}
	stalls = nil
	for i := range snapshotCount {
		began := time.Now()
		s, err := b.site.Snapshot(b.ctx, v, fmt.Sprintf("bench-%d", i), nil)
		if err != nil {
			return err
		}
		snapshots = append(snapshots, time.Since(began).Seconds()*1e3)
		if _, err := csi.NewControllerClient(b.site.CSI).DeleteSnapshot(b.ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.SnapshotId}); err != nil {
			return err
		}
	}
	for len(stalls) < pointCount {
		if err := b.point(&stalls); err != nil {
			return err
		}
	}
	b.Samples["CreateSnapshot under load, ms"], b.Samples["write stall by a checkpoint, ms"] = snapshots, stalls
	b.figure("CreateSnapshot under load, p50", median(snapshots), 50, "ms")
	b.figure("CreateSnapshot under load, p99", quantile(snapshots, 0.99), 50, "ms")
	b.figure("write stall by a checkpoint of 2 volumes, p50", median(stalls), 2, "ms")
	b.figure("write stall by a checkpoint of 2 volumes, p99.9", quantile(stalls, 0.999), 2, "ms")
	b.figure("checkpoint rounds given up of 1000", float64(b.missed), 1, "rounds")
	return nil
}

// point takes a checkpoint and adds its stall in ms.
func (b *bench) point(stalls *[]float64) error {
	for {
		p, err := b.site.Admin.TakePoint(b.ctx, &adminv1.TakePointRequest{Group: "pair"})
		if err == nil {
			*stalls = append(*stalls, p.Stall.AsDuration().Seconds()*1e3)
			return nil
		}
		if b.missed++; b.missed > pointCount {
			return err
		}
	}
}
