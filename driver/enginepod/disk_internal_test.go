package enginepod

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/node/loop"
)

// A disk has a number from when it is attached until it is taken away, however often it is
// mounted meanwhile, and another one the next time.
func TestADiskIsToldFromItsNextAttachment(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("telling attachments of a disk apart not tested: loop devices and mounts need root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("telling attachments of a disk apart not tested: %v", err)
	}
	image, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Skipf("telling attachments of a disk apart not tested: mkfs.ext4: %v: %s", err, out)
	}
	var seen []string
	for range 2 {
		disk := attachDisk(t, image)
		for range 2 {
			if err := unix.Mount(disk.Path(), dir, "ext4", 0, ""); err != nil {
				t.Fatal(err)
			}
			seen = append(seen, diskID(dir, slog.New(slog.DiscardHandler)))
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := disk.Detach(brief(t)); err != nil {
			t.Fatal(err)
		}
	}
	if seen[0] == "" || seen[1] != seen[0] || seen[2] == seen[0] || seen[2] == "" || seen[3] != seen[2] {
		t.Errorf("attached twice, and mounted twice each time, the disk was %q", seen)
	}
}

// attachDisk has a file be a disk until the end of the test, or until it is detached.
func attachDisk(t *testing.T, image string) loop.Device {
	t.Helper()
	disk, err := loop.Attach(brief(t), image, loop.Config{BlockBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Detach(brief(t)) })
	return disk
}

func brief(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
