package holder_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
)

// TestFileSystems takes each file system through its life on a device: made,
// filled, trimmed, grown online, unmounted and checked.
func TestFileSystems(t *testing.T) {
	const size, grown = 512 << 20, 768 << 20
	cases := []struct {
		name              string
		mkfs, grow, check []string // the device, or for grow xfs the mount point, is appended
		growsMounted      bool     // grow takes the mount point
	}{
		{"ext4", []string{"mkfs.ext4", "-q"}, []string{"resize2fs"}, []string{"e2fsck", "-f", "-n"}, false},
		{"xfs", []string{"mkfs.xfs", "-q"}, []string{"xfs_growfs"}, []string{"xfs_repair", "-n"}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			requireTools(t, c.mkfs[0], c.grow[0], c.check[0], "fstrim", "blockdev")
			n := startNode(t)
			file := n.newFile(size)
			dev, err := openFileDevice(file, false)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = dev.Close() })
			device := n.serve("vol", dev, 512).device
			on := func(command []string, target string) { run(t, command[0], append(command[1:], target)...) }

			on(c.mkfs, device)
			point := mountAt(t, device, n.dir)
			content := bytes.Repeat([]byte("journal"), 1<<20)
			for i := range 8 {
				writeSynced(t, filepath.Join(point, fmt.Sprint(i)), content)
			}
			if dev.flushes.Load() == 0 {
				t.Error("fsync of a file did not flush the device")
			}
			for i := range 7 {
				if err := os.Remove(filepath.Join(point, fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
			}
			// xfs frees extents in the background, and trims only what its log
			// has done with. After a mount nothing of that is left.
			if err := syscall.Unmount(point, 0); err != nil {
				t.Fatal(err)
			}
			point = mountAt(t, device, n.dir)
			before := allocated(t, file)
			run(t, "fstrim", point)
			if dev.discards.Load() == 0 {
				t.Error("fstrim did not discard")
			}
			if freed := before - allocated(t, file); freed < 7*int64(len(content))*9/10 {
				t.Errorf("fstrim after removing %d bytes freed %d", 7*len(content), freed)
			}

			if err := os.Truncate(file, grown); err != nil {
				t.Fatal(err)
			}
			if got, err := n.client.Resize(testContext(t), "vol"); err != nil || got != grown {
				t.Errorf("resize: %d, %v, want %d", got, err, grown)
			}
			if got := deviceBytes(t, device); got != grown {
				t.Errorf("device of %d bytes after growing to %d", got, grown)
			}
			if c.name == "ext4" && !mayResizeExt4(t) {
				t.Log("not tested: growing a mounted ext4; this process lacks CAP_SYS_RESOURCE")
			} else {
				target := device
				if c.growsMounted {
					target = point
				}
				on(c.grow, target)
				var fs syscall.Statfs_t
				if err := syscall.Statfs(point, &fs); err != nil {
					t.Fatal(err)
				}
				if got := int64(fs.Blocks) * fs.Bsize; got < size+(grown-size)/2 {
					t.Errorf("file system of %d bytes on a device grown to %d", got, grown)
				}
			}

			if err := syscall.Unmount(point, 0); err != nil {
				t.Fatal(err)
			}
			on(c.check, device)
			point = mountAt(t, device, n.dir)
			got, err := os.ReadFile(filepath.Join(point, "7"))
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("the file that was kept: %d bytes, %v", len(got), err)
			}
			if err := syscall.Unmount(point, 0); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// mayResizeExt4 reports whether this process has the capability that ext4 asks
// for before it grows while mounted; root in a container may not.
func mayResizeExt4(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// mountAt mounts a device below dir and unmounts it when the test ends, if the
// test has not.
func mountAt(t *testing.T, device, dir string) string {
	t.Helper()
	point, err := os.MkdirTemp(dir, "fs-")
	if err != nil {
		t.Fatal(err)
	}
	run(t, "mount", device, point)
	t.Cleanup(func() { _ = syscall.Unmount(point, 0) })
	return point
}

func writeSynced(t *testing.T, path string, content []byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

// allocated is how many bytes a file takes on its disk.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestReadOnlyDevice(t *testing.T) {
	n := startNode(t)
	dev := conformance.NewMemory(1 << 20)
	dev.SetReadOnly(true)
	device := n.serve("vol", dev, 512).device
	// The kernel may let a privileged process open it for writing, not write.
	if f, err := os.OpenFile(device, os.O_RDWR, 0); err == nil {
		_, err := f.Write(make([]byte, 4096))
		_ = f.Close()
		if err == nil {
			t.Error("a read-only device could be written to")
		}
	}
	if got := run(t, "blockdev", "--getro", device); got != "1\n" {
		t.Errorf("blockdev --getro: %q", got)
	}
	content, err := os.ReadFile(device)
	if err != nil || len(content) != 1<<20 {
		t.Errorf("read the device: %d bytes, %v", len(content), err)
	}
}
