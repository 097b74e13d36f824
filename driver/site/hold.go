package site

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/journal"
)

// holdDevices keeps everybody from mounting a group's devices until release, which
// has the kernel forget what was read of them meanwhile. groups.ErrInUse while one is open.
func (s *Site) holdDevices(ids []journal.VolumeID) (release func(), err error) {
	var held []*os.File
	release = func() {
		for _, f := range held {
			if err := errors.Join(unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0), f.Close()); err != nil {
				s.cfg.Log.Warn("letting go of a device failed: what was read of it meanwhile may be read again", "device", f.Name(), "error", err)
			}
		}
	}
	for _, id := range ids {
		if err := s.checkNotWaiting(id); err != nil {
			release()
			return nil, err
		}
		device, err := s.Device(id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
		if err != nil {
			release()
			return nil, fmt.Errorf("%s is %s: %w: %w", device, usedBy(device), groups.ErrInUse, err)
		}
		held = append(held, f)
	}
	return release, nil
}
