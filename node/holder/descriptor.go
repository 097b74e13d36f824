package holder

import (
	"errors"
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

// connected reports whether the kernel would still send requests. A kernel that does not
// answer has not said that it would not: a device that is taken for dead is aborted.
func (d descriptor) connected() bool {
	events, err := pollNow(int(d), unix.POLLIN)
	return err != nil || events&unix.POLLERR == 0
}

// poll is poll(2), which tests replace.
var poll = unix.Poll

// pollNow returns which of events, and of those that are always reported, a descriptor has
// now. A signal that happens to be pending, as the runtime and every child that ends send
// them, makes poll(2) fail also where it does not wait.
func pollNow(fd int, events int16) (int16, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		_, err := poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return fds[0].Revents, err
		}
	}
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
