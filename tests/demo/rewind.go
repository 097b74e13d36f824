package main

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// rewind is step 4.
func (d *demo) rewind(ctx context.Context) error {
	dropped, err := d.drop(ctx)
	if err != nil {
		return err
	}
	second := dropped.UTC().Add(-time.Second).Truncate(time.Second).Format(time.RFC3339)
	d.say("The second before the drop is %s. Back to it, in place:", second)
	if err := d.goTo(ctx, "start", "--at", second); err != nil {
		return err
	}
	if err := d.ordersAreThere(ctx); err != nil {
		return err
	}
	d.say("Undo it:")
	if err := d.goTo(ctx, "undo"); err != nil {
		return err
	}
	if gone, err := d.postgres.Query(ctx, "SELECT to_regclass('orders') IS NULL"); err != nil || gone != "t" {
		return mismatch("after the undo the table should be gone again: %q, %v", gone, err)
	}
	d.figure("orders", "the table is gone again, as it was")
	point, err := d.lastBefore(ctx, dropped)
	if err != nil {
		return err
	}
	d.say("The last checkpoint before the drop is %d. Take that one, and keep it:", point)
	if err := d.goTo(ctx, "start", "--at", strconv.FormatUint(point, 10)); err != nil {
		return err
	}
	if err := d.ordersAreThere(ctx); err != nil {
		return err
	}
	_, err = d.lockstep(ctx, d.a, "rewind", "commit", groupName, "--yes")
	return err
}

// drop drops the table of orders under the hands of those who place them, and
// returns the moment before.
func (d *demo) drop(ctx context.Context) (time.Time, error) {
	dropped := time.Now()
	if _, err := d.postgres.Query(ctx, "DROP TABLE orders"); err != nil {
		return dropped, err
	}
	d.orders.Stop() // the sessions have failed: there is no table
	d.command("psql --command 'DROP TABLE orders'", "# at", dropped.UTC().Format(time.RFC3339Nano))
	d.figure("orders acknowledged until then", "%d", d.orders.AckedBefore(dropped))
	return dropped, nil
}

// lastBefore returns the newest checkpoint that was taken before the drop
// began.
func (d *demo) lastBefore(ctx context.Context, dropped time.Time) (uint64, error) {
	resp, err := d.a.Admin.ListPoints(ctx, &adminv1.ListPointsRequest{Group: groupName, To: timestamppb.New(dropped)})
	if err != nil {
		return 0, err
	}
	d.command("lockstep point list", groupName, "--to", dropped.UTC().Format(time.RFC3339Nano), "--limit 1 -o name", "--admin", d.a.AdminSocket)
	if len(resp.GetPoints()) == 0 {
		return 0, mismatch("no checkpoint before the drop")
	}
	return resp.GetPoints()[0].GetCheckpoint(), nil
}

// goTo stops PostgreSQL, runs `lockstep rewind` and starts PostgreSQL again.
func (d *demo) goTo(ctx context.Context, verb string, flags ...string) error {
	began := time.Now()
	if err := d.postgres.Stop(); err != nil {
		return err
	}
	stopped := time.Now()
	if err := d.unmount(ctx); err != nil {
		return err
	}
	forking := time.Now()
	if _, err := d.lockstep(ctx, d.a, append([]string{"rewind", verb, groupName}, flags...)...); err != nil {
		return err
	}
	forked := time.Now()
	if err := d.mount(ctx, d.a, d.data, d.wal); err != nil {
		return err
	}
	mounted := time.Now()
	if err := d.postgres.Start(ctx); err != nil {
		return err
	}
	d.figure("rewind "+verb+" itself, 2 volumes, no copy", "%s", milliseconds(forked.Sub(forking)))
	d.figure("  with unmounting and mounting", "%s", milliseconds(mounted.Sub(stopped)))
	d.figure("  with PostgreSQL's own stop and start", "%s (stop %s, start %s)", milliseconds(time.Since(began)),
		milliseconds(stopped.Sub(began)), milliseconds(time.Since(mounted)))
	return nil
}

// ordersAreThere checks the orders against what was acknowledged before the
// point that the group was rewound to.
func (d *demo) ordersAreThere(ctx context.Context) error {
	group, err := d.group(ctx, d.a)
	if err != nil {
		return err
	}
	point := group.GetRewind().GetTo()
	if point == nil {
		return mismatch("the group is not in a rewind")
	}
	found, err := d.orders.Check(ctx, d.postgres, point.GetTime().AsTime())
	if err != nil {
		return mismatch("%w", err)
	}
	if found.Present == 0 {
		return mismatch("no order is there")
	}
	if err := d.postgres.CheckPgbench(ctx); err != nil {
		return mismatch("%w", err)
	}
	d.figure("orders", "%d are there: all %d acknowledged before the point, of %d ever", found.Present, found.Acked, found.AckedAll)
	return nil
}
