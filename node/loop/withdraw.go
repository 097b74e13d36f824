package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// openGrace is how long Withdraw tries a device that is merely open: udev looks
// at every device for a moment when somebody has closed it.
const openGrace = 250 * time.Millisecond

// Withdraw is Detach for a device that somebody may be about to use: it never
// leaves the device to its last user. It returns ErrBusy, with the device as it
// was, if that is mounted, claimed, or open in any process for longer than a
// moment. On success the kernel has written back, and forgotten, all that it had
// cached of the device.
func (d Device) Withdraw(ctx context.Context) error {
	grace, cancel := context.WithTimeout(ctx, openGrace)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		open, err := d.clearUnlessOpen()
		if err != nil {
			return err
		}
		if !open {
			return d.awaitGone(ctx)
		}
		select {
		case <-ticker.C:
		case <-grace.Done():
			return fmt.Errorf("withdraw %s: a process has it open: %w", d.Path(), ErrBusy)
		}
	}
}

// clearUnlessOpen is clear, and undone where others have the device open. As long
// as this function has it open, a detach that was asked for does not happen.
func (d Device) clearUnlessOpen() (open bool, err error) {
	device, err := os.OpenFile(d.Path(), os.O_RDONLY|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return false, fmt.Errorf("withdraw %s: %w", d.Path(), ErrBusy)
	case errors.Is(err, os.ErrNotExist), isGone(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("open loop device: %w", err)
	}
	defer device.Close()
	attached, err := d.attached()
	if err != nil || !attached {
		return false, err
	}
	fd := int(device.Fd())
	if _, err := unix.IoctlRetInt(fd, unix.LOOP_CLR_FD); err != nil && !isGone(err) {
		return false, fmt.Errorf("withdraw %s: %w", d.Path(), os.NewSyscallError("LOOP_CLR_FD", err))
	}
	// With no other opener the device takes no call any more; else it is marked to
	// be detached at the last close (loop_clr_fd in drivers/block/loop.c).
	status, err := unix.IoctlLoopGetStatus64(fd)
	if isGone(err) {
		return false, nil
	}
	if err == nil {
		status.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		err = os.NewSyscallError("LOOP_SET_STATUS64", unix.IoctlLoopSetStatus64(fd, status))
	}
	if err != nil {
		return false, fmt.Errorf("leave %s to who has it open: %w", d.Path(), err)
	}
	return true, nil
}
