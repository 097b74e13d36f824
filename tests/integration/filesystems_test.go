package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	exercisedCalls = 1500 // before each of remount, kill, and end
	// exercisedImages is how many positions of each file system are checked;
	// LOCKSTEP_TEST_ROUNDS multiplies it.
	exercisedImages = 6
)

// fileSystem is a file system that is exercised.
type fileSystem struct {
	name  string
	mkfs  []string
	calls []exercise
}

var fileSystems = []fileSystem{
	{"ext4", []string{"mkfs.ext4", "-q", "-F"}, slices.Concat(exercises, exercisesOfExtents)},
	{"xfs", []string{"mkfs.xfs", "-q", "-f"}, slices.Concat(exercises, exercisesOfExtents)},
	{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, exercises},
}

// missing says what this machine lacks for a file system. dir is an empty
// directory; nothing is mounted on it.
func (k fileSystem) missing(dir string) error {
	if _, err := exec.LookPath(k.mkfs[0]); err != nil {
		return fmt.Errorf("%w: run tests/setup.sh", err)
	}
	// The kernel looks at the type before it finds that there is no device.
	if err := unix.Mount("none", dir, k.name, 0, ""); errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("this kernel has no %s", k.name)
	}
	return nil
}

// TestFileSystems exercises file systems on a device while checkpoints are
// taken, unmounts and mounts them in between, and kills the site under them.
// What is read is always what was written; the device that is left passes fsck;
// and so do crash images at positions of its journal, which hold every file
// that had been made durable by then.
func TestFileSystems(t *testing.T) {
	for _, kind := range fileSystems {
		t.Run(kind.name, func(t *testing.T) {
			ctx, env := newEnv(t)
			if err := kind.missing(t.TempDir()); err != nil {
				t.Skipf("%s was not tested: %v", kind.name, err)
			}
			seed := seed(t)
			site := must(env.StartSite(ctx, harness.SiteConfig{Name: "a"}))(t)
			v := newBlockVolumes(ctx, t, site, 1, 512*mib, map[string]string{"group": groupName, "checkpointInterval": "100ms"})[0]
			dir := env.Path("fs")
			check(t, os.Mkdir(dir, 0o700))
			_ = must(harness.Run(ctx, kind.mkfs[0], append(kind.mkfs[1:], v.Target)...))(t)
			mount(ctx, t, env, kind.name, v.Target, dir)
			mark := newMarker(t, dir)
			e := must(newExerciser(dir, mark, seed, kind.calls))(t)
			check(t, syncDir(dir))
			from := must(site.Admin.TakePoint(ctx, &adminv1.TakePointRequest{Group: groupName}))(t)

			exerciseAll(ctx, t, env, site, e, func() {
				check(t, errors.Join(e.pause(), mark.file.Close()))
				check(t, unmount(ctx, dir))
				check(t, fsck(ctx, kind.name, v.Target))
				mount(ctx, t, env, kind.name, v.Target, dir)
				check(t, errors.Join(mark.open(dir), e.resume()))
			})
			t.Logf("%d calls, %d files made durable: %v", e.count, len(e.seals), e.counts)
			check(t, errors.Join(e.pause(), mark.file.Close()))
			check(t, unmount(ctx, dir))
			check(t, fsck(ctx, kind.name, v.Target))
			check(t, site.Unpublish(ctx, v, true))
			check(t, site.Stop(syscall.SIGTERM))

			images := crashImages{env: env, fsType: kind.name, from: must(site.OpenHistory(v))(t)}
			images.check(ctx, t, from.GetPoint().GetCheckpoint(), exercisedImages*rounds, rand.New(rand.NewPCG(seed, 4)), func(_ journal.Position, dir string) error {
				m, err := readMarker(dir)
				if err != nil {
					return err
				}
				crashed := &exerciser{dir: dir, seals: e.seals}
				return crashed.checkSeals(m)
			})
		})
	}
}

// exerciseAll runs the exerciser before and after a remount and a kill of the
// site.
func exerciseAll(ctx context.Context, t *testing.T, env *harness.Env, site *harness.Site, e *exerciser, remount func()) {
	t.Helper()
	check(t, e.run(ctx, exercisedCalls*rounds))
	remount()
	check(t, e.run(ctx, exercisedCalls*rounds))
	restarted := make(chan error, 1)
	go func() { restarted <- restart(ctx, site) }()
	err := e.run(ctx, exercisedCalls*rounds)
	check(t, errors.Join(err, <-restarted))
	remount()
}

// mount mounts a device until the end of the test.
func mount(ctx context.Context, t *testing.T, env *harness.Env, fsType, device, dir string) {
	t.Helper()
	_ = must(harness.Run(ctx, "mount", "-t", fsType, device, dir))(t)
	env.Undo(func() error { return harness.Unmount(dir) })
}
