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
	v, err := b.site.CreateVolume(b.ctx, harness.VolumeSpec{Name: "idle", SizeBytes: 64 << 20})
	if err != nil {
		return err
	}
	if err := b.site.Publish(b.ctx, v); err != nil {
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
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.site.Pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS of process %d", b.site.Pid())
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
		v, err := b.site.CreateVolume(b.ctx, harness.VolumeSpec{Name: name, SizeBytes: 1 << 30, Parameters: map[string]string{"group": "pair"}})
		if err != nil {
			return err
		}
		if err := b.site.Publish(b.ctx, v); err != nil {
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
	missed := 0
	for len(stalls) < pointCount {
		p, err := b.site.Admin.TakePoint(b.ctx, &adminv1.TakePointRequest{Group: "pair"})
		if err != nil {
			if missed++; missed > pointCount {
				return err
			}
			continue
		}
		stalls = append(stalls, p.Stall.AsDuration().Seconds()*1e3)
	}
	b.figure("CreateSnapshot under load, p50", median(snapshots), 50, "ms")
	b.figure("CreateSnapshot under load, p99", quantile(snapshots, 0.99), 50, "ms")
	b.figure("write stall by a checkpoint of 2 volumes, p50", median(stalls), 2, "ms")
	b.figure("write stall by a checkpoint of 2 volumes, p99.9", quantile(stalls, 0.999), 2, "ms")
	b.figure("checkpoint rounds given up of 1000", float64(missed), 1, "")
	return nil
}

// views measures opening views of a long journal.
func (b *bench) views() error {
	if b.o.journalGiB == 0 {
		return nil
	}
	size := int64(b.o.journalGiB) << 30
	v, err := b.site.CreateVolume(b.ctx, harness.VolumeSpec{Name: "long", SizeBytes: size, Parameters: map[string]string{
		"blockSize": "4096", "journalSize": fmt.Sprint(2 * size)}})
	if err != nil {
		return err
	}
	if err := b.site.Publish(b.ctx, v); err != nil {
		return err
	}
	before, err := b.rss()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "writing %d GiB of journal in 4k records\n", b.o.journalGiB)
	if _, err := harness.Run(b.ctx, "fio", "--name=long", "--filename="+v.Target, "--ioengine=io_uring", "--direct=1", "--rw=randwrite", "--bs=4k",
		"--iodepth=32", fmt.Sprintf("--size=%d", size), "--end_fsync=1", "--output=/dev/null"); err != nil {
		return err
	}
	if err := b.site.Unpublish(b.ctx, v, true); err != nil {
		return err
	}
	status, err := b.site.Admin.GetStatus(b.ctx, &adminv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	for _, x := range status.Volumes {
		if x.Id == v.ID {
			after, err := b.rss()
			if err != nil {
				return err
			}
			fmt.Printf("journal of %.1f GiB, %d extents in the index\n", float64(x.JournalBytes)/(1<<30), x.IndexExtents)
			b.figure("growth of RSS per extent of the index", (after-before)/float64(x.IndexExtents), 40, "bytes")
		}
	}
	return b.openViews()
}

// openViews opens points all over the journal.
func (b *bench) openViews() error {
	points, err := b.site.Admin.ListPoints(b.ctx, &adminv1.ListPointsRequest{Group: "long", Limit: 10000})
	if err != nil {
		return err
	}
	var took []float64
	const views = 20
	for i := range views {
		p := points.Points[i*(len(points.Points)-1)/(views-1)]
		view, err := b.site.Admin.OpenView(b.ctx, &adminv1.OpenViewRequest{Group: "long", At: fmt.Sprint(p.Checkpoint)})
		if err != nil {
			return err
		}
		took = append(took, view.View.Took.AsDuration().Seconds()*1e3)
		if _, err := b.site.Admin.CloseView(b.ctx, &adminv1.CloseViewRequest{Id: view.View.Id}); err != nil {
			return err
		}
	}
	b.figure("open a view, median of 20 points", median(took), 1000, "ms")
	b.figure("open a view, slowest of 20 points", quantile(took, 1), 1000, "ms")
	return nil
}
