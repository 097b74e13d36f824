package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// attachAttempts bounds how often a free device is looked for: between finding
// and configuring one, another process may take it.
const attachAttempts = 32

// Config says how a file is attached. Direct I/O is always on: the file's
// server must see each write when it is acknowledged, not when a second page
// cache gets round to it.
type Config struct {
	// BlockBytes is the logical block size of the device, a power of two
	// from 512 to 4096.
	BlockBytes int
	ReadOnly   bool
}

// Attach makes file, an absolute path without symbolic links, a block device
// and returns it. If it is attached already, that device is returned as it is.
// Two concurrent calls for one file may both attach it; callers serialise.
//
// ErrInvalid: config or file cannot be; ErrBusy: no free device could be had.
func Attach(ctx context.Context, file string, config Config) (Device, error) {
	b := config.BlockBytes
	if b < 512 || b > 4096 || b&(b-1) != 0 {
		return Device{}, fmt.Errorf("%w: block size %d", ErrInvalid, b)
	}
	if !filepath.IsAbs(file) || filepath.Clean(file) != file {
		return Device{}, fmt.Errorf("%w: backing file %q is not a clean absolute path", ErrInvalid, file)
	}
	if d, err := Find(file); !errors.Is(err, ErrNotFound) {
		return d, err
	}
	flags := os.O_RDWR
	if config.ReadOnly {
		flags = os.O_RDONLY
	}
	backing, err := openUnpolled(file, flags)
	if err != nil {
		return Device{}, fmt.Errorf("open backing file: %w", err)
	}
	defer backing.Close() // the driver holds its own reference
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return Device{}, fmt.Errorf("open loop control: %w", err)
	}
	defer control.Close()
	for range attachAttempts {
		if err := ctx.Err(); err != nil {
			return Device{}, fmt.Errorf("attach %s: %w", file, err)
		}
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return Device{}, fmt.Errorf("find free loop device: %w", os.NewSyscallError("LOOP_CTL_GET_FREE", err))
		}
		err = configure(number, backing, config)
		if errors.Is(err, unix.EBUSY) {
			continue
		}
		if errors.Is(err, os.ErrNotExist) {
			return Device{}, fmt.Errorf("attach %s: %w: in a container, mount the host's /dev, where new devices appear", file, err)
		}
		if err != nil {
			return Device{}, fmt.Errorf("attach %s to %s: %w", file, devicePath(number), err)
		}
		return Get(number)
	}
	return Device{}, fmt.Errorf("attach %s: %w: lost %d races for a free device", file, ErrBusy, attachAttempts)
}

// configure binds device number to backing, in one step, so that the device is
// never seen half set up. LO_FLAGS_PARTSCAN stays off: a scan would read the
// device from inside the ioctl.
func configure(number int, backing *os.File, config Config) error {
	mode := os.O_RDWR
	flags := uint32(unix.LO_FLAGS_DIRECT_IO)
	if config.ReadOnly {
		mode = os.O_RDONLY
		flags |= unix.LO_FLAGS_READ_ONLY
	}
	device, err := os.OpenFile(devicePath(number), mode, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	lc := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: uint32(config.BlockBytes)}
	lc.Info.Flags = flags
	// The last byte stays 0; the whole name is in sysfs.
	copy(lc.Info.File_name[:len(lc.Info.File_name)-1], backing.Name())
	return os.NewSyscallError("LOOP_CONFIGURE", unix.IoctlLoopConfigure(int(device.Fd()), &lc))
}

// openUnpolled opens a file without registering it with the runtime's poller.
// For a file of a FUSE mount the kernel asks its server at that, in a call for
// which the runtime gives no processor away: where the server is in the same
// process and the runtime stops the world meanwhile, both wait for ever.
func openUnpolled(file string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(file, flags|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue // a server may take its time, and signals come
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: file, Err: err}
		}
		return os.NewFile(uintptr(fd), file), nil
	}
}
