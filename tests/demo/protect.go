package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	loadTime   = 8 * time.Second // of pgbench while points are taken
	outageTime = 4 * time.Second // of pgbench while site b is down
	pointsN    = 50              // checkpoints taken for their stall
)

// protect is step 3: what protection costs while the shop is busy.
func (d *demo) protect(ctx context.Context) error {
	if err := d.postgres.CreateLedger(ctx, "orders"); err != nil {
		return err
	}
	d.orders = d.postgres.StartLedger("orders", sessions)
	d.say("From here on %d clients place orders, and note when each commit was acknowledged.", sessions)
	if err := d.underLoad(ctx); err != nil {
		return err
	}
	if _, err := d.lockstep(ctx, d.a, "point", "list", groupName, "--limit", "3"); err != nil {
		return err
	}
	return d.outage(ctx)
}

// underLoad takes checkpoints and a snapshot while pgbench runs.
func (d *demo) underLoad(ctx context.Context) error {
	d.command("pgbench --client", fmt.Sprint(clients), "--time", fmt.Sprint(int(loadTime.Seconds())), harness.Database, "&")
	load, err := d.postgres.StartPgbench(clients, loadTime)
	if err != nil {
		return err
	}
	stalls, err := d.takePoints(ctx, pointsN)
	if err != nil {
		return err
	}
	group, err := d.group(ctx, d.a)
	if err != nil {
		return err
	}
	began := time.Now()
	snapshot, err := d.a.Snapshot(ctx, d.data, "before-the-sale", nil)
	if err != nil {
		return err
	}
	took := time.Since(began)
	result, err := load.Wait()
	if err != nil {
		return err
	}
	d.call("CreateSnapshot before-the-sale of pgdata: a marker in both volumes")
	d.figure("pgbench meanwhile", "%.0f transactions/s", result.TPS)
	d.figure("writes held by a checkpoint", "p50 %s, p99 %s of %d", milliseconds(percentile(stalls, .5)), milliseconds(percentile(stalls, .99)), len(stalls))
	d.figure("CreateSnapshot under load", "%s, at %s", milliseconds(took), snapshot.CreationTime.AsTime().Format(time.RFC3339Nano))
	d.figure("replica behind, in the midst of it", "%s, %d records", milliseconds(group.GetLag().GetTime().AsDuration()), group.GetLag().GetRecords())
	return d.orders.Err()
}

// takePoints takes checkpoints and returns how long each held writes.
func (d *demo) takePoints(ctx context.Context, n int) ([]time.Duration, error) {
	var stalls []time.Duration
	tick := time.NewTicker(loadTime / 2 / time.Duration(n))
	defer tick.Stop()
	for range n {
		taken, err := d.a.Admin.TakePoint(ctx, &adminv1.TakePointRequest{Group: groupName})
		if err != nil {
			return nil, err
		}
		stalls = append(stalls, taken.GetStall().AsDuration())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return stalls, nil
}

// outage shows that a replica which is away costs site a nothing, and that it
// catches up.
func (d *demo) outage(ctx context.Context) error {
	d.command("kill -9", strconv.Itoa(d.b.PID()), "# site b")
	if err := d.b.Stop(syscall.SIGKILL); err != nil {
		return err
	}
	result, err := d.postgres.Pgbench(clients, outageTime)
	if err != nil {
		return err
	}
	group, err := d.group(ctx, d.a)
	if err != nil {
		return err
	}
	d.figure("pgbench without site b", "%.0f transactions/s", result.TPS)
	d.figure("replica behind then", "%s, %d records", seconds(group.GetLag().GetTime().AsDuration()), group.GetLag().GetRecords())
	if group.GetLag().GetRecords() == 0 {
		return mismatch("site b is down and nothing is lagging behind")
	}
	began := time.Now()
	if err := d.b.Start(ctx); err != nil {
		return err
	}
	d.command(append([]string{"lockstep"}, append(d.b.Args(), "&")...)...)
	if err := d.caughtUp(ctx); err != nil {
		return err
	}
	d.figure("site b is back, and level with a after", "%s, orders coming in all the while", seconds(time.Since(began)))
	return d.orders.Err()
}

// caughtUp waits until site b holds a recovery point of this moment.
func (d *demo) caughtUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	from := time.Now()
	err := harness.Until(ctx, 20*time.Millisecond, func() error {
		group, err := d.group(ctx, d.b)
		if err == nil && group.GetNewest().GetTime().AsTime().Before(from) {
			err = fmt.Errorf("site b's newest recovery point is of %s", group.GetNewest().GetTime().AsTime().Format(time.RFC3339Nano))
		}
		return err
	})
	if err != nil {
		return errors.Join(fmt.Errorf("wait for site b to catch up: %w", err), errors.New(d.b.LogTail()))
	}
	return nil
}
