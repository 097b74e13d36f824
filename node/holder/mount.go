package holder

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// mountType is what /proc/mounts shows for our file systems.
const mountType = "fuse.lockstep"

// mountVolume mounts the file system of a volume at dir, an existing directory,
// and negotiates it, over transport if the kernel grants that. The returned descriptor keeps the connection alive: when
// its last copy is closed, the kernel aborts.
func mountVolume(id, dir string, transport fuse.Transport) (descriptor, fuse.InitState, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return noDescriptor, fuse.InitState{}, fmt.Errorf("open /dev/fuse: %w", err)
	}
	conn := descriptor(fd)
	// The kernel checks the file's mode itself; without allow_other only
	// this user may enter at all.
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions",
		fd, os.Geteuid(), os.Getegid())
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME)
	if err := unix.Mount("lockstep:"+id, dir, mountType, flags, options); err != nil {
		conn.close()
		return noDescriptor, fuse.InitState{}, fmt.Errorf("mount %s: %w", dir, os.NewSyscallError("mount", err))
	}
	init, err := negotiate(conn, transport)
	if err != nil {
		conn.close()
		return noDescriptor, fuse.InitState{}, errors.Join(fmt.Errorf("negotiate %s: %w", dir, err), unmount(dir))
	}
	return conn, init, nil
}

func negotiate(conn descriptor, transport fuse.Transport) (fuse.InitState, error) {
	twin, err := conn.copy()
	if err != nil {
		return fuse.InitState{}, err
	}
	file := os.NewFile(uintptr(twin), "/dev/fuse")
	defer file.Close()
	return fuse.Handshake(file, transport)
}

// connectionAt returns the number of the FUSE connection whose file system is
// mounted at dir, topmost, in this process's mount namespace. It asks the mount
// table, not the file system.
func connectionAt(dir string) (number uint32, mounted bool, err error) {
	at, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != dir, false })
	if err != nil {
		return 0, false, fmt.Errorf("read mount table: %w", err)
	}
	if len(at) == 0 || at[len(at)-1].FSType != mountType {
		return 0, false, nil
	}
	return uint32(at[len(at)-1].Minor), true, nil
}

// volumesMounted returns the ids of the volumes whose file systems are mounted in
// the holder's directory dir.
func volumesMounted(dir string) ([]string, error) {
	below, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		id, inside := strings.CutPrefix(m.Mountpoint, dir+"/")
		return !inside || m.FSType != mountType || !volumeID.MatchString(id), false
	})
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	ids := make([]string, 0, len(below))
	for _, m := range below {
		ids = append(ids, strings.TrimPrefix(m.Mountpoint, dir+"/"))
	}
	return ids, nil
}

// shared reports whether mounts below dir are seen outside of this process's
// mount namespace, and so by a holder in the next one.
func shared(dir string) (bool, error) {
	above, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != "/" && !strings.HasPrefix(dir+"/", m.Mountpoint+"/"), false
	})
	if err != nil {
		return false, fmt.Errorf("read mount table: %w", err)
	}
	var nearest *mountinfo.Info // the last of the deepest is on top
	for _, m := range above {
		if nearest == nil || len(m.Mountpoint) >= len(nearest.Mountpoint) {
			nearest = m
		}
	}
	return nearest != nil && strings.Contains(nearest.Optional, "shared:"), nil
}

// aliveWait is how long a connection may take to answer before it counts as
// alive: the kernel refuses one that was aborted at once.
const aliveWait = time.Second

// dead tells how the kernel answers for a connection that was aborted, as it is
// when the last copy of its descriptor is closed.
func dead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.ECONNREFUSED)
}

// ask asks the file system at dir for its statistics, for which the kernel needs
// whoever serves it. The answer comes on the channel, in the end.
func ask(dir string) <-chan error {
	answer := make(chan error, 1)
	go func() {
		var stat unix.Statfs_t
		answer <- os.NewSyscallError("statfs", unix.Statfs(dir, &stat))
	}()
	return answer
}

// abort fails every request under way and to come on the file system at dir.
// It never waits for a server. The mount stays if its file is open, as it is
// while a loop device is attached to it.
func abort(dir string) error {
	// A forced unmount aborts the connection before it looks for users. It is
	// used in place of /sys/fs/fuse/connections/N/abort because that needs
	// fusectl mounted.
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
