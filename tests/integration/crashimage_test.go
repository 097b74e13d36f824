package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/tests/harness"
)

// fsckOf are the checks of file systems that change nothing and fail on any
// finding. The image was mounted and unmounted before, which replays its log.
var fsckOf = map[string][]string{
	"ext4":  {"e2fsck", "-f", "-n"},
	"xfs":   {"xfs_repair", "-n", "-f"},
	"btrfs": {"btrfs", "check", "--readonly"},
}

// crashImages looks at what a power loss at several positions of a volume would
// have left: each is written to a file, mounted, shown to look, unmounted, and
// checked by the file system's own fsck.
type crashImages struct {
	env    *harness.Env
	fsType string
	from   *harness.History
}

// check looks at n positions behind a checkpoint, chosen by rng, the first and
// the last always among them.
func (c *crashImages) check(ctx context.Context, t *testing.T, checkpoint uint64, n int, rng *rand.Rand, look func(at journal.Position, dir string) error) {
	t.Helper()
	all := c.from.Since(must(c.from.PositionOf(checkpoint))(t))
	chosen := choose(all, n, rng)
	for _, at := range chosen {
		if err := c.one(ctx, at, func(dir string) error { return look(at, dir) }); err != nil {
			t.Fatalf("%s at position %s: %v", c.fsType, at, err)
		}
	}
	t.Logf("%s: %d of %d positions are crash images", c.fsType, len(chosen), len(all))
}

// choose returns n positions in their order, or all if there are not more.
func choose(all []journal.Position, n int, rng *rand.Rand) []journal.Position {
	if len(all) <= n {
		return all
	}
	picks := rng.Perm(len(all) - 2)[:n-2]
	for i := range picks {
		picks[i]++
	}
	picks = append(picks, 0, len(all)-1)
	slices.Sort(picks)
	chosen := make([]journal.Position, n)
	for i, pick := range picks {
		chosen[i] = all[pick]
	}
	return chosen
}

// one looks at one position and leaves nothing behind.
func (c *crashImages) one(ctx context.Context, at journal.Position, look func(dir string) error) error {
	image, dir := c.env.Path("image"), c.env.Path("crashed")
	if err := c.from.Export(ctx, at, image); err != nil {
		return err
	}
	detach, err := c.env.MountImage(ctx, image, c.fsType, dir)
	if err != nil {
		return err
	}
	err = look(dir)
	// In this order, and not lazily: fsck is to see what unmounting wrote.
	if umountErr := unmount(ctx, dir); err == nil {
		err = umountErr
	}
	err = errors.Join(err, detach())
	if err == nil {
		err = fsck(ctx, c.fsType, image)
	}
	return errors.Join(err, os.Remove(image))
}

// unmount unmounts a file system and waits until the kernel has let go of its
// device: a container that was started just then has a copy of every mount of
// this machine until it has a root directory of its own, and a process with a
// mount namespace may keep one for as long as it runs. fsck of a device that is
// mounted somewhere finds what is no damage.
func unmount(ctx context.Context, dir string) error {
	device, err := harness.Run(ctx, "findmnt", "--noheadings", "--first-only", "--output", "SOURCE", "--mountpoint", dir)
	if err != nil {
		return err
	}
	if _, err := harness.Run(ctx, "umount", dir); err != nil {
		return err
	}
	return harness.Until(ctx, 20*time.Millisecond, func() error {
		// Exclusively, which is refused while a file system is on the device.
		f, err := os.OpenFile(strings.TrimSpace(device), os.O_RDONLY|unix.O_EXCL, 0)
		if err != nil {
			return fmt.Errorf("%s was unmounted, and some other mount namespace keeps it: %w", dir, err)
		}
		return f.Close()
	})
}

// fsck checks a file system that is not mounted, on a device or in a file.
func fsck(ctx context.Context, fsType, path string) error {
	command := slices.Concat(fsckOf[fsType], []string{path})
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// marker is a block of a file that is always written in place, past the page
// cache: what a position holds of it tells how far the writer was at least. The
// file system's log has no part in that, since the block was written and synced
// before. Btrfs never writes in place: there each change is synced.
type marker struct {
	file  *os.File
	block []byte
	sync  bool
}

const markerName = "marker"

// newMarker makes the marker 0 in a directory, durable.
func newMarker(t *testing.T, dir string) *marker {
	t.Helper()
	m := &marker{block: must(unix.Mmap(-1, 0, pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE))(t)}
	t.Cleanup(func() { check(t, unix.Munmap(m.block)) })
	check(t, m.open(dir))
	check(t, errors.Join(m.set(0), m.file.Sync(), syncDir(dir)))
	return m
}

// open opens the marker's file, which is made if need be.
func (m *marker) open(dir string) (err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	m.sync = fs.Type == unix.BTRFS_SUPER_MAGIC
	m.file, err = os.OpenFile(filepath.Join(dir, markerName), os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
	return err
}

// set writes a number; on return every later position has it or a higher one.
func (m *marker) set(n int) error {
	clear(m.block)
	copy(m.block, strconv.Itoa(n)+"\n")
	_, err := m.file.WriteAt(m.block, 0)
	if m.sync && err == nil {
		err = m.file.Sync()
	}
	return err
}

// readMarker reads the marker of a crash image.
func readMarker(dir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, markerName))
	if err != nil {
		return 0, err
	}
	text, _, _ := strings.Cut(string(b), "\n")
	return strconv.Atoi(text)
}
