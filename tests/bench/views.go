package main

import (
	"fmt"
	"os"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// views measures opening views of a long journal.
func (b *bench) views() error {
	size := int64(b.o.journalGiB) << 30
	v, err := b.volume("long", size, map[string]string{"blockSize": "4096", "journalSize": fmt.Sprint(2 * size)})
	if err != nil {
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
