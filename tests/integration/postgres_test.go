package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// shop is PostgreSQL on two volumes of one group.
type shop struct {
	data, wal *harness.Volume
	postgres  *harness.Postgres
	orders    *harness.Ledger
}

// newShop makes the volumes and starts PostgreSQL on them, with a ledger that
// is not started.
func newShop(ctx context.Context, t *testing.T, env *harness.Env, s *harness.Site, parameters map[string]string) *shop {
	t.Helper()
	p := &shop{}
	for _, v := range []struct {
		name, fsType string
		bytes        int64
		volume       **harness.Volume
	}{{"pgdata", "ext4", 512 * mib, &p.data}, {"pgwal", "xfs", 512 * mib, &p.wal}} {
		*v.volume = must(s.CreateVolume(ctx, harness.VolumeSpec{Name: v.name, FSType: v.fsType, SizeBytes: v.bytes, Parameters: parameters}))(t)
		check(t, s.Publish(ctx, *v.volume))
	}
	p.postgres = must(env.InitPostgres(ctx, "postgres", p.data.Target, p.wal.Target))(t)
	check(t, p.postgres.Start(ctx))
	check(t, p.postgres.CreateDatabase(ctx, 1))
	check(t, p.postgres.CreateLedger(ctx, "orders"))
	return p
}

func (p *shop) volumes() []*harness.Volume { return []*harness.Volume{p.data, p.wal} }

func TestPostgresStartsFromPointsTakenUnderLoad(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	p := newShop(ctx, t, env, site, map[string]string{"group": groupName, "checkpointInterval": "100ms"})
	p.orders = p.postgres.StartLedger("orders", 2)
	load := must(p.postgres.StartPgbench(4, 6*time.Second))(t)
	var points []*adminv1.Point
	for range 24 {
		taken := must(site.Admin.TakePoint(ctx, &adminv1.TakePointRequest{Group: groupName}))(t)
		points = append(points, taken.GetPoint())
		settle(200 * time.Millisecond)
	}
	result := must(load.Wait())(t)
	p.orders.Stop()
	check(t, p.orders.Err())
	t.Logf("%d points under %.0f transactions/s", len(points), result.TPS)
	check(t, p.postgres.Stop())

	opened := 5 * rounds // of them as copies of views; two more as volumes
	for i := range min(opened, len(points)) {
		startFromView(ctx, t, env, site, p, points[i*len(points)/opened])
	}
	startFromSnapshot(ctx, t, env, site, p, points[1], "early")
	startFromSnapshot(ctx, t, env, site, p, points[len(points)-1], "late")
}

// startFromView copies a point over NBD and starts PostgreSQL on the copy.
func startFromView(ctx context.Context, t *testing.T, env *harness.Env, site *harness.Site, p *shop, point *adminv1.Point) {
	t.Helper()
	name := fmt.Sprintf("view-%d", point.GetCheckpoint())
	view := must(site.OpenView(ctx, groupName, fmt.Sprint(point.GetCheckpoint())))(t)
	var mounts []string
	var undo []func() error
	for _, v := range p.volumes() {
		image, target := env.Path(name+"-"+v.Name+".img"), env.Path(name+"-"+v.Name)
		check(t, view.Copy(ctx, v.ID, image))
		unmount := must(env.MountImage(ctx, image, v.FSType, target))(t)
		mounts, undo = append(mounts, target), append(undo, unmount, func() error { return os.Remove(image) })
	}
	check(t, view.Close(ctx))
	checkPostgres(ctx, t, env, p, name, mounts, point)
	for _, fn := range undo {
		check(t, fn())
	}
}

// startFromSnapshot makes a snapshot of the past, volumes of it, and starts
// PostgreSQL on them.
func startFromSnapshot(ctx context.Context, t *testing.T, env *harness.Env, site *harness.Site, p *shop, point *adminv1.Point, name string) {
	t.Helper()
	snapshot := must(site.Snapshot(ctx, p.data, name, map[string]string{"asOf": fmt.Sprint(point.GetCheckpoint())}))(t)
	if got := snapshot.GetCreationTime().AsTime(); !got.Equal(point.GetTime().AsTime()) {
		t.Errorf("the snapshot is of %v, want %v", got, point.GetTime().AsTime())
	}
	var mounts []string
	var volumes []*harness.Volume
	for _, v := range p.volumes() {
		restored := must(site.CreateVolume(ctx, harness.VolumeSpec{
			Name: name + "-" + v.Name, FSType: v.FSType, SizeBytes: 512 * mib, Snapshot: snapshot.GetSnapshotId(),
			Parameters: map[string]string{"group": name, "lockstep.dev/member": v.ID},
		}))(t)
		check(t, site.Publish(ctx, restored))
		volumes, mounts = append(volumes, restored), append(mounts, restored.Target)
	}
	checkPostgres(ctx, t, env, p, name, mounts, point)
	for _, v := range volumes {
		check(t, site.Unpublish(ctx, v, true))
	}
}

// checkPostgres starts PostgreSQL on copies of the volumes and checks it.
func checkPostgres(ctx context.Context, t *testing.T, env *harness.Env, p *shop, name string, mounts []string, point *adminv1.Point) {
	t.Helper()
	began := time.Now()
	postgres := must(env.OpenPostgres(name, mounts[0], mounts[1]))(t)
	check(t, postgres.Start(ctx))
	started := time.Since(began)
	found, err := p.orders.Check(ctx, postgres, point.GetTime().AsTime())
	if err := errors.Join(err, postgres.CheckPgbench(ctx)); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	check(t, postgres.Stop())
	t.Logf("%s: started in %v; %d orders, %d of them acknowledged before the point, of %d", name, started, found.Present, found.Acked, found.AckedAll)
}

func TestSiteKilledUnderDatabaseAndFio(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	p := newShop(ctx, t, env, site, map[string]string{"group": groupName})
	raw := newBlockVolumes(ctx, t, site, 1, 128*mib, map[string]string{"group": groupName})[0]
	p.orders = p.postgres.StartLedger("orders", 2)
	fio := startFio(t, env, raw.Target)
	began := time.Now()
	var longest time.Duration
	for range 10 * rounds {
		settle(300 * time.Millisecond)
		check(t, site.Stop(syscall.SIGKILL))
		down := time.Now()
		check(t, site.Start(ctx))
		longest = max(longest, time.Since(down))
		// The next kill must find the site at work again.
		acked := p.orders.Acked()
		check(t, harness.Until(ctx, 5*time.Millisecond, func() error {
			if err := p.orders.Err(); err != nil || p.orders.Acked() == acked {
				return errors.Join(errors.New("no order since the restart"), err)
			}
			return nil
		}))
	}
	pause := p.orders.LongestPause(began, time.Now())
	p.orders.Stop()
	check(t, p.orders.Err())
	check(t, fio.stop())
	found, err := p.orders.Check(ctx, p.postgres, time.Now())
	check(t, errors.Join(err, p.postgres.CheckPgbench(ctx)))
	t.Logf("%d kills: %d orders without an error, fio verified; longest restart %v, longest pause of an order %v", 10*rounds, found.Present, longest, pause)
}

func TestNothingFlushedIsLostWithTheDevices(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	p := newShop(ctx, t, env, site, map[string]string{"group": groupName})
	for round := range 3 * rounds {
		table := fmt.Sprintf("orders_%d", round)
		check(t, p.postgres.CreateLedger(ctx, table))
		p.orders = p.postgres.StartLedger(table, 2)
		load := must(p.postgres.StartPgbench(2, time.Minute))(t)
		settle(time.Second)
		check(t, site.Lose())
		p.orders.Stop() // what was acknowledged by now is owed
		load.Kill()
		check(t, p.postgres.Kill())
		check(t, site.Start(ctx))
		for _, v := range p.volumes() {
			check(t, v.ForgetMounts())
			check(t, site.Publish(ctx, v))
		}
		check(t, p.postgres.Start(ctx))
		found, err := p.orders.Check(ctx, p.postgres, time.Now())
		check(t, errors.Join(err, p.postgres.CheckPgbench(ctx)))
		t.Logf("round %d: %d orders acknowledged, %d there", round, found.AckedAll, found.Present)
	}
}
