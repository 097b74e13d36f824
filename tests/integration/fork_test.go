package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// forkShown is what the tests read of `lockstep fork create -o json` and list.
type forkShown struct {
	Name, State string
	UsedBytes   int64
	QuotaBytes  int64
	Exports     []struct{ NBDURI string }
}

// mountedFork is a fork's file system, over NBD and nbdfuse.
type mountedFork struct {
	dir     string
	unmount func() error
}

func mountFork(ctx context.Context, t *testing.T, env *harness.Env, uri, name string) mountedFork {
	t.Helper()
	file, remove, err := env.NBDFile(ctx, uri, env.Path("mnt", name+"-file"))
	check(t, err)
	m := mountedFork{dir: env.Path("mnt", name)}
	unmount := must(env.MountImage(ctx, file, "ext4", m.dir))(t)
	m.unmount = func() error { return errors.Join(unmount(), remove()) }
	return m
}

func (m mountedFork) write(ctx context.Context, t *testing.T, name string, content []byte) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(m.dir, name), content, 0o600))
	_ = must(harness.Run(ctx, "sync", "--file-system", m.dir))(t)
}

func (m mountedFork) has(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(m.dir, name))
	if want == nil && !errors.Is(err, os.ErrNotExist) || want != nil && !bytes.Equal(got, want) {
		t.Errorf("%s of the fork has %d bytes, want %d (%v)", name, len(got), len(want), err)
	}
}

// TestForkOfAMountedVolume mounts a fork's file system and writes to it while the
// volume is written to, kills the site in between, fills the fork up, and throws it
// away. The volume is what it would be without.
func TestForkOfAMountedVolume(t *testing.T) {
	ctx, env := newEnv(t)
	if err := harness.Missing("nbdfuse"); err != nil {
		t.Skipf("no fork was mounted: %v", err)
	}
	site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
	v := must(site.CreateVolume(ctx, harness.VolumeSpec{Name: "disk", FSType: "ext4", SizeBytes: 64 * mib, Parameters: map[string]string{"group": groupName}}))(t)
	check(t, site.Publish(ctx, v))
	notes := map[string][]byte{}
	note := func(name string) {
		t.Helper()
		notes[name] = []byte(strings.Repeat(name, 30000))
		check(t, os.WriteFile(filepath.Join(v.Target, name), notes[name], 0o600))
		_ = must(harness.Run(ctx, "sync", "--file-system", v.Target))(t)
	}
	note("first")
	at := takePoint(ctx, t, site)
	view := must(site.OpenView(ctx, groupName, at))(t)
	before := must(view.Digest(v.ID))(t)
	check(t, view.Close(ctx))
	note("second")

	var made struct{ Fork forkShown }
	out := must(env.Lockstep(ctx, "fork", "create", groupName, "rehearsal", "--at", at, "--quota", "32Mi", "-o", "json", "--admin", site.AdminSocket))(t)
	check(t, json.Unmarshal([]byte(out), &made))
	uri := made.Fork.Exports[0].NBDURI
	fork := mountFork(ctx, t, env, uri, "rehearsal")
	fork.has(t, "first", notes["first"])
	fork.has(t, "second", nil)
	migrated := bytes.Repeat([]byte("migrated"), 1<<17)
	fork.write(ctx, t, "migrated", migrated)
	note("third")
	check(t, os.Remove(filepath.Join(fork.dir, "first")))
	fork.write(ctx, t, "more", migrated)
	check(t, fork.unmount())

	check(t, site.Stop(syscall.SIGKILL))
	check(t, site.Start(ctx))
	fork = mountFork(ctx, t, env, uri, "rehearsal")
	fork.has(t, "first", nil)
	fork.has(t, "migrated", migrated)
	fork.has(t, "more", migrated)
	check(t, fork.unmount())
	note("fourth")

	// Over its quota the fork fails, and nothing else does.
	huge := env.Path("huge")
	check(t, os.WriteFile(huge, bytes.Repeat([]byte{1}, int(64*mib)), 0o600))
	if _, err := harness.Run(ctx, "nbdcopy", huge, uri); err == nil {
		t.Error("64 MiB were written to a fork of 32")
	}
	var list struct{ Forks []forkShown }
	check(t, json.Unmarshal([]byte(must(env.Lockstep(ctx, "fork", "list", "-o", "json", "--admin", site.AdminSocket))(t)), &list))
	if len(list.Forks) != 1 || list.Forks[0].State != "open" || list.Forks[0].UsedBytes > list.Forks[0].QuotaBytes+8*mib || list.Forks[0].UsedBytes < 16*mib {
		t.Errorf("forks are %+v", list.Forks)
	}
	note("fifth")
	lockstep(ctx, t, env, site, "fork", "discard", "rehearsal")
	if c, err := harness.DialNBD(uri); err == nil {
		t.Error("the export of a fork that was discarded can be opened")
		check(t, c.Close())
	}
	if left := must(filepath.Glob(env.Path("a", "forks", "*")))(t); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}

	view = must(site.OpenView(ctx, groupName, at))(t)
	if after := must(view.Digest(v.ID))(t); after != before {
		t.Error("the point that was forked at is another one now")
	}
	check(t, view.Close(ctx))
	for name, want := range notes {
		if got, err := os.ReadFile(filepath.Join(v.Target, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s of the volume has %d bytes, want %d (%v)", name, len(got), len(want), err)
		}
	}
	for _, name := range []string{"migrated", "more"} {
		if _, err := os.Stat(filepath.Join(v.Target, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the volume has %s of the fork: %v", name, err)
		}
	}
	check(t, site.Unpublish(ctx, v, true))
	last := takePoint(ctx, t, site)
	view = must(site.OpenView(ctx, groupName, last))(t)
	image := env.Path("last.img")
	check(t, view.Copy(ctx, v.ID, image))
	check(t, view.Close(ctx))
	_ = must(harness.Run(ctx, "e2fsck", "-f", "-n", image))(t)
}
