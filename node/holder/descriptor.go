package holder

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// descriptor is a number of a /dev/fuse file. It is no os.File, because
// whether reads of it wait is a property of the open file, which is shared with
// the engine: os.File.Fd would switch that under an engine that is reading.
type descriptor int

const noDescriptor descriptor = -1

// fuseDevice is the device number of /dev/fuse (Documentation/admin-guide/devices.txt).
var fuseDevice = unix.Mkdev(10, 229)

func (d descriptor) close() {
	if d != noDescriptor {
		_ = unix.Close(int(d)) // nothing was written through this copy
	}
}

// copy makes another descriptor of the same open file.
func (d descriptor) copy() (descriptor, error) {
	fd, err := unix.FcntlInt(uintptr(d), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return noDescriptor, fmt.Errorf("copy descriptor: %w", os.NewSyscallError("fcntl", err))
	}
	return descriptor(fd), nil
}

// connected reports whether the kernel would still send requests.
func (d descriptor) connected() bool {
	fds := []unix.PollFd{{Fd: int32(d), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLERR == 0
}

// isFuse reports whether this is a descriptor of /dev/fuse at all.
func (d descriptor) isFuse() bool {
	var stat unix.Stat_t
	err := unix.Fstat(int(d), &stat)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == fuseDevice
}

// connection is the number of the FUSE connection that the descriptor belongs
// to. known is false if the kernel does not say: it is older than this line of
// fdinfo (2025), or there never was a mount with this descriptor.
func (d descriptor) connection() (number uint32, known bool, err error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(d)))
	if err != nil {
		return 0, false, fmt.Errorf("look at descriptor: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "fuse_connection:"); found {
			n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			if err != nil {
				return 0, false, fmt.Errorf("look at descriptor: %w", err)
			}
			return uint32(n), true, nil
		}
	}
	return 0, false, nil
}
