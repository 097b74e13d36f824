package site

import (
	"context"
	"fmt"

	"github.com/lockstep-csi/lockstep/journal"
)

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
