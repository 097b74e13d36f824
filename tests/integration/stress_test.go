package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// stressors are those of stress-ng that put a file system to work, two of each
// at once, and check what comes of it. Left out are those that call sync(2),
// which waits for every device of the machine, and those that are about
// mounts, devices or processes.
var stressors = []string{
	"chattr", "chmod", "dentry", "dir", "dirdeep", "fallocate", "fpunch", "hdd", "rename", "seek", "sync-file",
	"access", "aio", "chown", "dirmany", "fiemap", "filename", "flock", "getdent", "inode-flags", "link", "lockf", "lockofd",
	"mmap", "msync", "open", "readahead", "sendfile", "splice", "symlink", "touch", "utime", "xattr",
}

const (
	// quickStressors is how many of them one round takes, from the first on.
	quickStressors = 11
	// excusedStressors is how many may fail because of the machine: if more do,
	// nothing was tested.
	excusedStressors = 2
)

// TestFileSystemsUnderStress runs stress-ng on ext4 and xfs over a device while
// checkpoints are taken. What fails there is run over a plain loop device too:
// a failure there as well is the machine's, and told; few are excused by that.
func TestFileSystemsUnderStress(t *testing.T) {
	if _, err := exec.LookPath("stress-ng"); err != nil {
		t.Skipf("no file system was put under stress: %v: run tests/setup.sh", err)
	}
	chosen := stressors[:min(quickStressors*rounds, len(stressors))]
	for _, kind := range fileSystems[:2] {
		t.Run(kind.name, func(t *testing.T) {
			ctx, env := newEnv(t)
			site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
			v := newBlockVolumes(ctx, t, site, 1, 512*mib, map[string]string{"group": groupName, "checkpointInterval": "100ms"})[0]
			failed := stressAll(ctx, t, env, kind, v.Target, chosen)
			check(t, site.Unpublish(ctx, v, true))
			if all := len(failed); all > 0 {
				failed = failedOnOursOnly(ctx, t, env, kind, failed)
				if all-len(failed) > excusedStressors {
					t.Errorf("%d of %d stressors cannot be run on this machine", all-len(failed), len(chosen))
				}
			}
			for name, err := range failed {
				t.Errorf("%s fails here and not on a plain loop device: %v", name, err)
			}
			t.Logf("%s: %d stressors", kind.name, len(chosen))
		})
	}
}

// failedOnOursOnly runs what has failed on a plain loop device.
func failedOnOursOnly(ctx context.Context, t *testing.T, env *harness.Env, kind fileSystem, failed map[string]error) map[string]error {
	t.Helper()
	var names []string
	for name := range failed {
		names = append(names, name)
	}
	plain := env.Path("plain")
	check(t, os.WriteFile(plain, nil, 0o600))
	check(t, os.Truncate(plain, 512*mib))
	device := strings.TrimSpace(must(harness.Run(ctx, "losetup", "--direct-io=on", "--find", "--show", plain))(t))
	env.Undo(func() error { _, err := harness.Run(context.Background(), "losetup", "--detach", device); return err })
	for name, err := range stressAll(ctx, t, env, kind, device, names) {
		t.Logf("%s fails on a plain loop device as well: %v", name, err)
		delete(failed, name)
	}
	return failed
}

// stressAll makes a file system on a device, runs stressors on it, and checks
// it. It returns which stressors failed.
func stressAll(ctx context.Context, t *testing.T, env *harness.Env, kind fileSystem, device string, names []string) map[string]error {
	t.Helper()
	dir := env.Path("stressed")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	_ = must(harness.Run(ctx, kind.mkfs[0], append(kind.mkfs[1:], device)...))(t)
	mount(ctx, t, env, kind.name, device, dir)
	failed := map[string]error{}
	for _, name := range names {
		// Kept small: two of them are to fit into the file system.
		out, err := exec.CommandContext(ctx, "stress-ng", "--"+name, "2", "--timeout", "1s", "--verify", "--temp-path", dir,
			"--hdd-bytes", "16m", "--fallocate-bytes", "16m", "--seek-size", "16m",
			"--readahead-bytes", "16m", "--mmap-bytes", "16m", "--mmap-file", "--sync-file-bytes", "16m", "--sendfile-size", "1m").CombinedOutput()
		if err != nil {
			failed[name] = fmt.Errorf("%w: %s", err, out)
		}
	}
	check(t, unmount(ctx, dir))
	check(t, fsck(ctx, kind.name, device))
	return failed
}
