package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// createFork makes a fork of the group and returns the NBD URIs of its members by
// volume id.
func createFork(ctx context.Context, t *testing.T, env *harness.Env, s *harness.Site, name, at string) map[string]string {
	t.Helper()
	var made struct {
		Fork struct {
			Exports []struct{ VolumeID, NBDURI string }
		}
	}
	out := must(env.Lockstep(ctx, "fork", "create", groupName, name, "--at", at, "-o", "json", "--admin", s.AdminSocket))(t)
	check(t, json.Unmarshal([]byte(out), &made))
	uris := map[string]string{}
	for _, e := range made.Fork.Exports {
		uris[e.VolumeID] = e.NBDURI
	}
	return uris
}

// refusedCommit has the commit of a fork fail, and say why.
func refusedCommit(ctx context.Context, t *testing.T, env *harness.Env, s *harness.Site, fork, says string) {
	t.Helper()
	_, err := env.Lockstep(ctx, "fork", "commit", groupName, fork, "--yes", "--admin", s.AdminSocket)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(exit.Stderr), says) {
		t.Errorf("commit of fork %s: %v, want a refusal that says %q", fork, err, says)
	}
}

// TestACommittedForkIsMounted changes a file system on a fork of a replicated volume,
// makes that production, and finds it on the volume, and on the replica. Then it goes
// back.
func TestACommittedForkIsMounted(t *testing.T) {
	ctx, env := newEnv(t)
	if err := harness.Missing("nbdfuse"); err != nil {
		t.Skipf("no fork was mounted: %v", err)
	}
	pair := must(env.StartPair(ctx))(t)
	site := pair.A
	v := must(site.CreateVolume(ctx, harness.VolumeSpec{Name: "disk", FSType: "ext4", SizeBytes: 64 * mib, Parameters: replicated}))(t)
	check(t, site.Publish(ctx, v))
	put := func(dir, name, text string) {
		t.Helper()
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(text, 50000)), 0o600))
		_ = must(harness.Run(ctx, "sync", "--file-system", dir))(t)
	}
	has := func(wanted map[string]string) {
		t.Helper()
		for name, text := range wanted {
			got, err := os.ReadFile(filepath.Join(v.Target, name))
			if text == "" && errors.Is(err, os.ErrNotExist) {
				continue
			}
			if want := strings.Repeat(text, 50000); err != nil || string(got) != want {
				t.Errorf("%s has %d bytes, want %d of %q (%v)", name, len(got), len(want), text, err)
			}
		}
	}
	put(v.Target, "kept", "old")
	put(v.Target, "removed", "old")
	at := takePoint(ctx, t, site)
	uris := createFork(ctx, t, env, site, "migration", at)
	put(v.Target, "late", "new")

	fork := mountFork(ctx, t, env, uris[v.ID], "migration")
	put(fork.dir, "migrated", "yes")
	put(fork.dir, "kept", "changed")
	check(t, os.Remove(filepath.Join(fork.dir, "removed")))
	refusedCommit(ctx, t, env, site, "migration", "unmount it and disconnect first")
	check(t, fork.unmount())
	check(t, harness.Until(ctx, 20*time.Millisecond, func() error { // nbdfuse ends its connections a moment later
		_, err := env.Lockstep(ctx, "fork", "commit", groupName, "migration", "--dry-run", "--admin", site.AdminSocket)
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && strings.Contains(string(exit.Stderr), "is mounted at") {
			return nil
		}
		return fmt.Errorf("a dry run while the volume is mounted: %w", err)
	}))
	refusedCommit(ctx, t, env, site, "migration", "is mounted at")
	check(t, site.Unpublish(ctx, v, false))
	lockstep(ctx, t, env, site, "fork", "commit", groupName, "migration", "--yes")

	committed := time.Now()
	check(t, site.Publish(ctx, v))
	has(map[string]string{"kept": "changed", "migrated": "yes", "removed": "", "late": ""})
	check(t, pair.B.AwaitPoint(ctx, groupName, committed))
	check(t, site.Unpublish(ctx, v, false))
	last := takePoint(ctx, t, site)
	check(t, pair.B.AwaitPoint(ctx, groupName, time.Now()))
	for _, s := range []*harness.Site{site, pair.B} {
		view := must(s.OpenView(ctx, groupName, last))(t)
		image := env.Path(s.Config.Name + ".img")
		check(t, view.Copy(ctx, v.ID, image))
		check(t, view.Close(ctx))
		_ = must(harness.Run(ctx, "e2fsck", "-f", "-n", image))(t)
	}
	if a, b := must(os.ReadFile(env.Path("a.img")))(t), must(os.ReadFile(env.Path("b.img")))(t); string(a) != string(b) {
		t.Error("the replica differs from the volume")
	}
	if left := must(filepath.Glob(env.Path("a", "forks", "*")))(t); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
	lockstep(ctx, t, env, site, "rewind", "undo", groupName)
	check(t, site.Publish(ctx, v))
	has(map[string]string{"kept": "old", "migrated": "", "removed": "old", "late": "new"})
}

// TestCommitKilledInTheMiddle kills the site at different moments while a fork becomes
// production. After a restart all members are production as it was, with the fork
// beside them, or all are what the fork was.
func TestCommitKilledInTheMiddle(t *testing.T) {
	ctx, env := newEnv(t)
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	volumes := newBlockVolumes(ctx, t, site, 3, 64*mib, map[string]string{"group": groupName})
	committed, stayed := 0, 0
	kills := 8 * rounds
	for round := 0; round < kills || committed == 0 && round < kills+laterKills; round++ {
		ctx := roundContext(t)
		for _, v := range volumes {
			fillWithNoise(t, v, 8*mib)
		}
		uris := createFork(ctx, t, env, site, "x", takePoint(ctx, t, site))
		noise := env.Path("noise")
		wanted := map[string]string{}
		for _, v := range volumes {
			_ = must(harness.Run(ctx, "dd", "if=/dev/urandom", "of="+noise, "bs=1M", "count=48", "status=none"))(t)
			_ = must(harness.Run(ctx, "nbdcopy", "--flush", noise, uris[v.ID]))(t)
			fillWithNoise(t, v, 4*mib) // production goes on
			wanted[v.ID] = digestOfFork(ctx, t, env, uris[v.ID])
		}
		view := must(site.OpenView(ctx, groupName, takePoint(ctx, t, site)))(t)
		before := map[string]string{}
		for _, v := range volumes {
			before[v.ID] = must(view.Digest(v.ID))(t)
		}
		check(t, view.Close(ctx))
		if killDuringCommit(ctx, t, site, killAfter(round, kills, 60*time.Millisecond)) {
			committed++
		} else {
			stayed++
			wanted = before
		}
		view = must(site.OpenView(ctx, groupName, takePoint(ctx, t, site)))(t)
		for _, v := range volumes {
			if got := must(view.Digest(v.ID))(t); got != wanted[v.ID] {
				t.Errorf("round %d: volume %s is neither all of production nor all of the fork", round, v.Name)
			}
		}
		check(t, view.Close(ctx))
		if g := must(site.Group(ctx, groupName))(t); g.GetRewind() != nil {
			lockstep(ctx, t, env, site, "rewind", "commit", groupName, "--yes")
		} else {
			lockstep(ctx, t, env, site, "fork", "discard", "x")
		}
	}
	t.Logf("%d kills: %d commits were completed, %d had not begun", committed+stayed, committed, stayed)
	if committed == 0 || stayed == 0 {
		t.Error("every kill came on the same side of the beginning")
	}
}

// digestOfFork reads a member of a fork as views are read.
func digestOfFork(ctx context.Context, t *testing.T, env *harness.Env, uri string) string {
	t.Helper()
	image := env.Path("fork.img")
	_ = must(harness.Run(ctx, "nbdcopy", uri, image))(t)
	sum := must(harness.Run(ctx, "sha256sum", image))(t)
	check(t, os.Remove(image))
	return strings.Fields(sum)[0]
}

// killDuringCommit begins the commit of fork x, kills the site after a delay and
// restarts it. It reports whether the fork is production.
func killDuringCommit(ctx context.Context, t *testing.T, s *harness.Site, delay time.Duration) bool {
	t.Helper()
	answered := make(chan error, 1)
	go func() {
		_, err := s.Admin.CommitFork(ctx, &adminv1.CommitForkRequest{Group: groupName, Name: "x"})
		answered <- err
	}()
	settle(delay)
	check(t, s.Stop(syscall.SIGKILL))
	answer := <-answered
	check(t, s.Start(ctx))
	committed := must(s.Group(ctx, groupName))(t).GetRewind() != nil
	forks := must(s.Admin.ListForks(ctx, &adminv1.ListForksRequest{}))(t).GetForks()
	if committed == (len(forks) == 1) || answer == nil && !committed {
		t.Fatalf("the commit was answered with %v; production: %t, forks: %s", answer, committed, fmt.Sprint(forks))
	}
	return committed
}
