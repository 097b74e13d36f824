package site

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/journal"
)

// What a kernel has cached of a device does not change with it. So while the members of
// a group fork nobody may have one of their devices mounted, from the moment in which that
// is looked at: this process has them exclusively, as who mounts a device has it.

// keepDevice keeps everybody from mounting a volume's device, until letDeviceGo, and has
// the kernel forget what it has cached of it. kept: it was not kept before. No error if
// there is no device. groups.ErrInUse while it is open or mounted, or waits to be served.
// The key of the volume's group must be held.
func (s *Site) keepDevice(id journal.VolumeID) (kept bool, err error) {
	if err := s.checkNotWaiting(id); err != nil {
		return false, err
	}
	v, err := s.volumeOf(id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	device, err := s.Device(id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	kept = v.exclusive != nil
	s.mu.Unlock()
	if kept {
		return false, nil
	}
	f, err := openUnused(device) // it may wait for I/O, which this process serves
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	v.exclusive = f
	s.mu.Unlock()
	return true, nil
}

// letDeviceGo ends keepDevice. What was read of the device meanwhile is forgotten.
func (s *Site) letDeviceGo(v *volume) {
	s.mu.Lock()
	f := v.exclusive
	v.exclusive = nil
	s.mu.Unlock()
	if f == nil {
		return
	}
	if err := errors.Join(forgetCached(f), f.Close()); err != nil {
		s.cfg.Log.Warn("letting go of a device failed: what was read of it meanwhile may be read again", "device", f.Name(), "error", err)
	}
}

// holdDevices is keepDevice for a group's volumes; release lets those go that were not
// kept before.
func (s *Site) holdDevices(ids []journal.VolumeID) (release func(), err error) {
	var held []*volume
	release = func() {
		for _, v := range held {
			s.letDeviceGo(v)
		}
	}
	for _, id := range ids {
		kept, err := s.keepDevice(id)
		if err != nil {
			release()
			return nil, err
		}
		if v, err := s.volumeOf(id); kept && err == nil {
			held = append(held, v)
		}
	}
	return release, nil
}

// openUnused opens a block device that is not open or mounted, exclusively, and has the
// kernel forget what it has cached of it: that belongs to the state that is left.
func openUnused(device string) (*os.File, error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s is %s: stop the application and unmount it first: %w", device, usedBy(device), groups.ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("look whether %s is in use: %w", device, err)
	}
	if err := forgetCached(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func forgetCached(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("drop cached pages of %s: %w", f.Name(), err)
	}
	return nil
}
