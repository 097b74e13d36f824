package main

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// failoverLoad is how long the shop is busy before site a dies.
const failoverLoad = 4 * time.Second

// failover is step 5.
func (d *demo) failover(ctx context.Context) error {
	if err := d.caughtUp(ctx); err != nil {
		return err
	}
	if err := d.postgres.CreateLedger(ctx, "payments"); err != nil {
		return err
	}
	payments := d.postgres.StartLedger("payments", sessions)
	d.command("pgbench --client", fmt.Sprint(clients), harness.Database, "& # and payments, noted as the orders were")
	load, err := d.postgres.StartPgbench(clients, 10*failoverLoad)
	if err != nil {
		return err
	}
	select {
	case <-time.After(failoverLoad):
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := payments.Err(); err != nil {
		return err
	}
	d.command("kill -9", strconv.Itoa(d.a.PID()), "# site a, under load")
	killed := time.Now()
	if err := d.a.Stop(syscall.SIGKILL); err != nil {
		return err
	}
	point, err := d.promote(ctx, killed)
	if err != nil {
		return err
	}
	// Site a's machine would be gone; here its clients still wait for it.
	load.Kill()
	payments.Stop()
	onB, err := d.startOnB(ctx, killed)
	if err != nil {
		return err
	}
	return d.paymentsAreThere(ctx, payments, onB, point, killed)
}

// promote makes site b primary and returns its point.
func (d *demo) promote(ctx context.Context, killed time.Time) (time.Time, error) {
	out, err := d.lockstep(ctx, d.b, "failover", groupName, "--at", "latest", "--yes", "-o", "yaml")
	if err != nil {
		return time.Time{}, err
	}
	var failover struct {
		Point struct{ Time time.Time }
		RPO   string
	}
	if err := yaml.Unmarshal([]byte(out), &failover); err != nil {
		return time.Time{}, fmt.Errorf("read what failover printed: %w", err)
	}
	d.figure("site b is primary after", "%s", milliseconds(time.Since(killed)))
	return failover.Point.Time, nil
}

// startOnB mounts the volumes on site b and starts PostgreSQL there.
func (d *demo) startOnB(ctx context.Context, killed time.Time) (*harness.Postgres, error) {
	data, wal := d.b.Adopted(d.data), d.b.Adopted(d.wal)
	if err := d.mount(ctx, d.b, data, wal); err != nil {
		return nil, err
	}
	d.call("ControllerPublish, NodeStage, NodePublish of both volumes on site b")
	postgres, err := d.env.OpenPostgres("postgres-b", data.Target, wal.Target)
	if err != nil {
		return nil, err
	}
	if err := postgres.Start(ctx); err != nil {
		return nil, err
	}
	d.command("postgres -D", data.Target+"/data &")
	if _, err := postgres.Query(ctx, "SELECT count(*) FROM pgbench_branches"); err != nil {
		return nil, err
	}
	d.figure("RTO: from the kill to the first query on b", "%s", milliseconds(time.Since(killed)))
	return postgres, nil
}

// paymentsAreThere checks what site b holds against what was acknowledged.
func (d *demo) paymentsAreThere(ctx context.Context, payments *harness.Ledger, on *harness.Postgres, point, killed time.Time) error {
	found, err := payments.Check(ctx, on, point)
	if err != nil {
		return mismatch("%w", err)
	}
	if found.Present == 0 {
		return mismatch("no payment is there")
	}
	if err := on.CheckPgbench(ctx); err != nil {
		return mismatch("%w", err)
	}
	orders, err := on.QueryInt(ctx, "SELECT count(*) FROM orders")
	if err != nil {
		return err
	}
	d.figure("RPO: age of the point when a was killed", "%s", milliseconds(killed.Sub(point)))
	d.figure("payments acknowledged before the point", "%d, all are there", found.Acked)
	d.figure("payments there", "%d of %d ever acknowledged", found.Present, found.AckedAll)
	d.figure("orders there, from before", "%d", orders)
	d.figure("pgbench's balances", "accounts, tellers, branches and history agree")
	result, err := on.Pgbench(clients, 2*time.Second)
	if err != nil {
		return err
	}
	d.figure("pgbench on site b", "%.0f transactions/s", result.TPS)
	return nil
}
