package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// TestSiteOnAFullDisk fills the disk of a whole site, with a group of volumes, its
// pins, a fork, and the site's databases on it, and leaves it full while there are
// writers. Forks go, then history, then writes are refused, because a pin holds what
// is left. Commands say so, a kill changes nothing, and with room again all is as
// before, without anybody's help.
func TestSiteOnAFullDisk(t *testing.T) {
	ctx, env := newEnv(t)
	disk := must(env.MountSmallDisk(ctx, "a", 900*mib))(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	volumes := newBlockVolumes(ctx, t, site, 2, 64*mib, map[string]string{"group": groupName, "checkpointInterval": "200ms"})
	c := newChains(volumes, 4)
	c.stubborn = true
	c.start(t)
	for _, v := range volumes {
		fillWithNoise(t, v, 8*mib)
	}
	snapshot := must(site.Snapshot(ctx, volumes[0], "kept", nil))(t)
	lockstep(ctx, t, env, site, "point", "take", groupName, "--pin", "before")
	lengths := chainsAt(ctx, t, c, site, "pin:before")
	lockstep(ctx, t, env, site, "fork", "create", groupName, "rehearsal", "--quota", "32Mi")
	check(t, disk.Fill(0))

	check(t, harness.Until(ctx, 10*time.Millisecond, func() error { return exhaust(t, volumes, c, 1) }))
	check(t, c.err())
	forkIsGivenUp(ctx, t, env, site)
	check(t, disk.Fill(0)) // also what the fork had
	refusals := c.refused() + 20
	check(t, harness.Until(ctx, 10*time.Millisecond, func() error { return exhaust(t, volumes, c, refusals) }))
	if said := must(condition(ctx, site, "Room"))(t); said.GetReason() != "BackingFull" {
		t.Errorf("the site does not say that it is full: %v", said)
	}
	fullSiteRefuses(ctx, t, env, site, volumes[0])
	sameChains(ctx, t, c, site, "pin:before", lengths)

	check(t, site.Stop(syscall.SIGKILL))
	check(t, site.Start(ctx))
	sameChains(ctx, t, c, site, "pin:before", lengths)
	chainsAt(ctx, t, c, site, "latest")
	check(t, c.err())

	check(t, disk.Empty())
	from := c.writtenBytes()
	check(t, harness.Until(ctx, 50*time.Millisecond, func() error {
		if c.writtenBytes() < from+mib {
			return errors.New("the writers do not go on")
		}
		return nil
	}))
	check(t, site.AwaitPoint(ctx, groupName, time.Now()))
	check(t, expand(ctx, site, volumes[0], 128*mib))
	_, err := csi.NewControllerClient(site.CSI).DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot.GetSnapshotId()})
	check(t, err)
	c.stop()
	check(t, c.err())
	sameChains(ctx, t, c, site, "pin:before", lengths)
	lockstep(ctx, t, env, site, "point", "drop", groupName, "before")
	c.verifyAll(ctx, t, site, 0)
}

// exhaust writes until chains have been refused so many times.
func exhaust(t *testing.T, volumes []*harness.Volume, c *chains, refusals int) error {
	t.Helper()
	for _, v := range volumes {
		if err := writeNoise(v, 16*mib); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("a write to a full disk fails with %v", err)
		}
	}
	if n := c.refused(); n < refusals {
		return fmt.Errorf("%d writes have found no room, want %d", n, refusals)
	}
	return nil
}

// sameChains makes sure that a point holds what it held.
func sameChains(ctx context.Context, t *testing.T, c *chains, s *harness.Site, at string, want []int) {
	t.Helper()
	if got := chainsAt(ctx, t, c, s, at); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("point %s has chains of %v, and had %v", at, got, want)
	}
}

func forkIsGivenUp(ctx context.Context, t *testing.T, env *harness.Env, s *harness.Site) {
	t.Helper()
	var list struct{ Forks []forkShown }
	check(t, json.Unmarshal([]byte(must(env.Lockstep(ctx, "fork", "list", "-o", "json", "--admin", s.AdminSocket))(t)), &list))
	if len(list.Forks) != 1 || list.Forks[0].State != "given-up" {
		t.Errorf("forks are %+v, want one that was given up", list.Forks)
	}
}

func expand(ctx context.Context, s *harness.Site, v *harness.Volume, bytes int64) error {
	_, err := csi.NewControllerClient(s.CSI).ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}})
	return err
}

// fullSiteRefuses has a full site asked for what needs room. Each call either does it
// or says that there is none.
func fullSiteRefuses(ctx context.Context, t *testing.T, env *harness.Env, s *harness.Site, v *harness.Volume) {
	t.Helper()
	_, created := s.CreateVolume(ctx, harness.VolumeSpec{Name: "more", SizeBytes: 64 * mib, Parameters: map[string]string{"group": "more"}})
	_, snapshot := s.Snapshot(ctx, v, "full", nil)
	for what, err := range map[string]error{"create a volume": created, "expand a volume": expand(ctx, s, v, 96*mib), "take a snapshot": snapshot} {
		switch t.Logf("full: %s: %v", what, err); {
		case err == nil:
		case status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no space"):
			t.Errorf("%s on a full disk fails with %v", what, err)
		}
	}
	for _, args := range [][]string{
		{"status"}, {"group", "describe", groupName}, {"point", "list", groupName}, {"point", "take", groupName, "--pin", "full"},
		{"fork", "create", groupName, "another"},
	} {
		_, err := env.Lockstep(ctx, append(args, "--admin", s.AdminSocket)...)
		t.Logf("full: lockstep %s: %v", strings.Join(args, " "), err)
		if err != nil && !strings.Contains(err.Error(), "no space") {
			t.Errorf("lockstep %s on a full disk fails with %v", strings.Join(args, " "), err)
		}
	}
}
