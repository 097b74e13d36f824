package node

import (
	"context"
	"fmt"
)

// WhileUnused calls do while nothing of the volume is staged or published on this
// node, and nothing can begin to be until do returns. device is the path of its
// block device. Otherwise do is not called: ErrInUse, or ErrBusy while a call for
// the volume is under way.
//
// It reads the mount table, because a published raw block volume is a mount of the
// device's node, which does not claim the device: before the pod has opened it
// nothing else tells of its user.
func (s *Server) WhileUnused(ctx context.Context, volume, device string, do func() error) error {
	unlock, err := s.lock(ctx, volume)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := s.host.Device(device)
	if err != nil {
		return err
	}
	uses, err := s.mounts(func(m *Mount) bool { return m.isOf(d.Number) })
	if err != nil {
		return err
	}
	if len(uses) > 0 {
		return fmt.Errorf("volume %s is at %s: %w", volume, uses[0].Point, ErrInUse)
	}
	return do()
}

// InTurn calls do while no call for the volume is under way, and none begins until do
// returns. It waits for its turn until ctx ends, and then does not call do.
func (s *Server) InTurn(ctx context.Context, volume string, do func() error) error {
	unlock, err := s.locks.Lock(ctx, volume)
	if err != nil {
		return fmt.Errorf("volume %s: %w: %w", volume, ErrBusy, err)
	}
	defer unlock()
	return do()
}
