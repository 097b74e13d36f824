package site

import (
	"context"
	"fmt"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// PointSizes returns the sizes in bytes that the members had at a recovery
// point that can be opened.
func (s *Site) PointSizes(point group.Point) (map[journal.VolumeID]int64, error) {
	sizes := make(map[journal.VolumeID]int64, len(point.Members))
	for id, at := range point.Members {
		eng, err := s.engineOf(id)
		if err != nil {
			return nil, err
		}
		if sizes[id], err = eng.Store().SizeAt(at); err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

// UnpinPoint drops a pin from every store that has it, those of retired
// volumes included. No error if none has.
func (s *Site) UnpinPoint(ctx context.Context, pin string) error {
	unlock, err := s.groups.LockPin(ctx, pin)
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	var holders []*journal.Store
	for _, v := range s.volumes {
		if v.eng != nil {
			if _, ok := v.store().Pins()[pin]; ok {
				holders = append(holders, v.store())
			}
		}
	}
	s.mu.Unlock()
	for _, store := range holders {
		if err := store.Unpin(pin); err != nil {
			return fmt.Errorf("volume %s: %w", store.Volume(), err)
		}
	}
	return nil
}
