package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/internal/loopback"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	groupName = "shop"
	clients   = 4 // of pgbench
	sessions  = 2 // of the ledger
	scale     = 5 // of pgbench: 500,000 accounts
)

// demo is the state that goes from step to step.
type demo struct {
	page
	env      *harness.Env
	a, b     *harness.Site
	data     *harness.Volume
	wal      *harness.Volume
	postgres *harness.Postgres // on site a
	orders   *harness.Ledger
}

func (d *demo) preface() {
	// The one place where the directory's name is not shortened.
	fmt.Fprintf(d.out, "DIR=%s\n", d.dir) //nolint:errcheck // as in page.print
	d.print("CSI calls are made as the kubelet and the sidecars make them; everything else is a command.\n")
}

// lockstep runs a command of the CLI against a site and shows both.
func (d *demo) lockstep(ctx context.Context, s *harness.Site, args ...string) (string, error) {
	args = append(args, "--admin", s.AdminSocket)
	d.command(append([]string{"lockstep"}, args...)...)
	out, err := d.env.Lockstep(ctx, args...)
	d.output(out)
	return out, err
}

// startSites is step 1.
func (d *demo) startSites(ctx context.Context) error {
	tls := d.env.Path("tls")
	certs := []string{"certs", "--out", tls, "--site", "a=" + loopback.Host(), "--site", "b=" + loopback.Host()}
	d.command(append([]string{"lockstep"}, certs...)...)
	if _, err := d.env.Lockstep(ctx, certs...); err != nil {
		return err
	}
	addresses := map[string]string{}
	for _, name := range []string{"a", "b"} {
		address, err := loopback.Free()
		if err != nil {
			return err
		}
		addresses[name] = address
	}
	for _, s := range []struct {
		name, peer string
		site       **harness.Site
	}{{"a", "b", &d.a}, {"b", "a", &d.b}} {
		began := time.Now()
		site, err := d.env.StartSite(ctx, harness.SiteConfig{
			Name: s.name, Listen: addresses[s.name], TLSDir: tls + "/" + s.name, Peers: map[string]string{s.peer: addresses[s.peer]},
		})
		if err != nil {
			return err
		}
		*s.site = site
		d.command(append(append([]string{"lockstep"}, site.Args()...), "&")...)
		d.figure("site "+s.name+" answers after", "%s", milliseconds(time.Since(began)))
	}
	return nil
}

// startShop is step 2.
func (d *demo) startShop(ctx context.Context) error {
	for _, v := range []struct {
		name, fsType string
		bytes        int64
		volume       **harness.Volume
	}{{"pgdata", "ext4", 2 << 30, &d.data}, {"pgwal", "xfs", 1 << 30, &d.wal}} {
		began := time.Now()
		volume, err := d.a.CreateVolume(ctx, harness.VolumeSpec{
			Name: v.name, FSType: v.fsType, SizeBytes: v.bytes,
			Parameters: map[string]string{"group": groupName, "checkpointInterval": "1s", "replicateTo": "b"},
		})
		if err != nil {
			return err
		}
		created := time.Since(began)
		if err := d.a.Publish(ctx, volume); err != nil {
			return err
		}
		*v.volume = volume
		d.call("CreateVolume %s, %d GiB, %s, group=%s, replicateTo=b; ControllerPublish, NodeStage, NodePublish", v.name, v.bytes>>30, v.fsType, groupName)
		d.figure(v.name+" created after", "%s", milliseconds(created))
		d.figure(v.name+" formatted and mounted after", "%s", milliseconds(time.Since(began)))
	}
	began := time.Now()
	var err error
	if d.postgres, err = d.env.InitPostgres(ctx, "postgres-a", d.data.Target, d.wal.Target); err != nil {
		return err
	}
	d.command("initdb --pgdata", d.data.Target+"/data", "--waldir", d.wal.Target+"/wal")
	if err := d.postgres.Start(ctx); err != nil {
		return err
	}
	d.command("postgres -D", d.data.Target+"/data", "-c fsync=on -c full_page_writes=on &")
	if err := d.postgres.CreateDatabase(ctx, scale); err != nil {
		return err
	}
	d.command("pgbench --initialize --scale", strconv.Itoa(scale), harness.Database)
	d.figure("PostgreSQL ready with 500,000 accounts after", "%s", seconds(time.Since(began)))
	load, err := d.postgres.Pgbench(clients, 3*time.Second)
	if err != nil {
		return err
	}
	d.command("pgbench --client", strconv.Itoa(clients), "--time 3", harness.Database)
	d.figure("pgbench, replicated to b", "%.0f transactions/s", load.TPS)
	return nil
}

// explain shows the ends of the sites' logs after a failure, which the
// clean-up will delete.
func (d *demo) explain(ctx context.Context) {
	if ctx.Err() != nil {
		return // interrupted, so nothing has to be explained
	}
	for _, s := range []*harness.Site{d.a, d.b} {
		if s != nil {
			d.print("\n   The end of the log of site %s:\n", s.Config.Name)
			d.output(s.LogTail())
		}
	}
}

// group asks a site how the group is there.
func (d *demo) group(ctx context.Context, s *harness.Site) (*adminv1.Group, error) {
	resp, err := s.Admin.DescribeGroup(ctx, &adminv1.DescribeGroupRequest{Group: groupName})
	return resp.GetGroup(), err
}

// mount and unmount are what a pod's start and end are to the node service.
func (d *demo) mount(ctx context.Context, s *harness.Site, volumes ...*harness.Volume) error {
	for _, v := range volumes {
		if err := s.Publish(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) unmount(ctx context.Context) error {
	for _, v := range []*harness.Volume{d.data, d.wal} {
		if err := d.a.Unpublish(ctx, v, false); err != nil {
			return err
		}
	}
	return nil
}

// mismatch is a claim of the demo that did not hold.
func mismatch(format string, args ...any) error {
	return fmt.Errorf("MISMATCH: "+format, args...)
}
