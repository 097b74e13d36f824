package holder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// mountType is what /proc/mounts shows for our file systems.
const mountType = "fuse.lockstep"

// mountVolume mounts the file system of a volume at dir, an existing directory,
// and negotiates it. The returned descriptor keeps the connection alive: when
// its last copy is closed, the kernel aborts.
func mountVolume(id, dir string) (*os.File, fuse.InitState, error) {
	conn, err := os.OpenFile("/dev/fuse", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fuse.InitState{}, fmt.Errorf("open /dev/fuse: %w", err)
	}
	// The kernel checks the file's mode itself; without allow_other only
	// this user may enter at all.
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions",
		conn.Fd(), os.Geteuid(), os.Getegid())
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME)
	if err := unix.Mount("lockstep:"+id, dir, mountType, flags, options); err != nil {
		_ = conn.Close()
		return nil, fuse.InitState{}, fmt.Errorf("mount %s: %w", dir, os.NewSyscallError("mount", err))
	}
	init, err := fuse.Handshake(conn)
	if err != nil {
		_ = conn.Close()
		return nil, fuse.InitState{}, errors.Join(fmt.Errorf("negotiate %s: %w", dir, err), unmount(dir))
	}
	return conn, init, nil
}

// connected reports whether the kernel would still send requests to conn.
func connected(conn *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(conn.Fd()), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLERR == 0
}

// abort fails every request under way and to come on the file system at dir.
// It never waits for a server. The mount stays if its file is open, as it is
// while a loop device is attached to it.
func abort(dir string) error {
	// A forced unmount aborts the connection before it looks for users. It is
	// used in place of /sys/fs/fuse/connections/N/abort because that needs
	// fusectl mounted and a number that can only be had by asking the file
	// system.
	err := unix.Unmount(dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EBUSY) && !notMounted(err) {
		return fmt.Errorf("abort %s: %w", dir, os.NewSyscallError("umount2", err))
	}
	return nil
}

// unmount removes the file system at dir from the tree. It does not wait for
// users of it, and dir that is no mount point is success.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !notMounted(err) {
		return fmt.Errorf("unmount %s: %w", dir, os.NewSyscallError("umount2", err))
	}
	return nil
}

func notMounted(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
}

// fileIn is the path of the file that the device of a volume is made of.
func fileIn(dir string) string { return filepath.Join(dir, fuse.FileName) }
