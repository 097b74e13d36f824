package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often Detach looks whether the kernel has let go.
const pollInterval = 5 * time.Millisecond

// Resize makes the device as large as its backing file, which is at the path
// file for this process, is now, and returns its new size in bytes. Data and
// users of the device are not disturbed.
func (d Device) Resize(file string) (sizeBytes int64, err error) {
	// The driver takes the length that the kernel last knew. Asking for the
	// file's attributes first makes a FUSE file system fetch them.
	if _, err := os.Stat(file); err != nil {
		return 0, fmt.Errorf("look at backing file of %s: %w", d.Path(), err)
	}
	device, err := os.Open(d.Path())
	if err != nil {
		return 0, fmt.Errorf("open loop device: %w", err)
	}
	defer device.Close()
	if _, err := unix.IoctlRetInt(int(device.Fd()), unix.LOOP_SET_CAPACITY); err != nil {
		return 0, fmt.Errorf("resize %s: %w", d.Path(), os.NewSyscallError("LOOP_SET_CAPACITY", err))
	}
	size, err := sizeOf(device)
	if err != nil {
		return 0, fmt.Errorf("get size of %s: %w", d.Path(), err)
	}
	return size, nil
}

// SizeBytes is the device's present size. It asks the kernel, not the device.
func (d Device) SizeBytes() (int64, error) {
	device, err := os.Open(d.Path())
	if err != nil {
		return 0, fmt.Errorf("open loop device: %w", err)
	}
	defer device.Close()
	size, err := sizeOf(device)
	if err != nil {
		return 0, fmt.Errorf("get size of %s: %w", d.Path(), err)
	}
	return size, nil
}

// sizeOf seeks: BLKGETSIZE64 would need an ioctl that x/sys has no safe call for.
func sizeOf(device *os.File) (int64, error) { return device.Seek(0, 2) }

// Detach releases the device and returns once the kernel has let go of the
// backing file, so that its file system can be unmounted. A device that is
// attached to nothing, or has been attached anew by now, is success.
//
// It returns ErrBusy without having changed anything if the device is mounted
// or otherwise claimed, and ctx's error if someone who merely has it open does
// not close it in time; the kernel then detaches it at the last close.
func (d Device) Detach(ctx context.Context) error {
	if err := d.clear(); err != nil {
		return err
	}
	return d.awaitGone(ctx)
}

// awaitGone waits until the kernel has let go of the backing file.
func (d Device) awaitGone(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		attached, err := d.attached()
		if err != nil || !attached {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s is free: %w", d.Path(), ctx.Err())
		}
	}
}

// attached reports whether the device is still attached as it was.
func (d Device) attached() (bool, error) {
	now, err := Get(d.Number)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return now.is(d), nil
}

// clear asks the driver to let go of the file at the last close, which is that
// of this function's descriptor unless others have the device open.
func (d Device) clear() error {
	// Exclusively, because LOOP_CLR_FD succeeds on a mounted device and makes
	// it vanish at the unmount, long after the caller was told that it is gone.
	device, err := os.OpenFile(d.Path(), os.O_RDONLY|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("detach %s: %w", d.Path(), ErrBusy)
	case errors.Is(err, os.ErrNotExist), isGone(err):
		return nil
	case err != nil:
		return fmt.Errorf("open loop device: %w", err)
	}
	defer device.Close()
	attached, err := d.attached()
	if err != nil || !attached {
		return err
	}
	_, err = unix.IoctlRetInt(int(device.Fd()), unix.LOOP_CLR_FD)
	if err != nil && !isGone(err) {
		return fmt.Errorf("detach %s: %w", d.Path(), os.NewSyscallError("LOOP_CLR_FD", err))
	}
	return nil
}

// isGone tells the errors of a device that is, or is being, detached.
func isGone(err error) bool {
	return errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV)
}

// InUse reports whether the device is mounted or otherwise claimed. A process
// that merely has it open does not count.
func (d Device) InUse() (bool, error) {
	device, err := os.OpenFile(d.Path(), os.O_RDONLY|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return true, nil
	case errors.Is(err, os.ErrNotExist), isGone(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("open loop device: %w", err)
	}
	// Nothing was changed through this descriptor, so there is nothing to
	// learn from closing it.
	_ = device.Close()
	return false, nil
}

// Abandon asks for the device to be detached once its last user is gone, and
// returns at once. It is for a device whose file fails every request anyway. One
// that is attached to nothing, or has been attached anew by now, is success.
func (d Device) Abandon() error {
	device, err := os.Open(d.Path())
	if errors.Is(err, os.ErrNotExist) || isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open loop device: %w", err)
	}
	defer device.Close()
	// Its last user may have gone before the device was opened, and its number be
	// another file's now. From here on it is nobody else's.
	attached, err := d.attached()
	if err != nil || !attached {
		return err
	}
	_, err = unix.IoctlRetInt(int(device.Fd()), unix.LOOP_CLR_FD)
	if err != nil && !isGone(err) {
		return fmt.Errorf("abandon %s: %w", d.Path(), os.NewSyscallError("LOOP_CLR_FD", err))
	}
	return nil
}
