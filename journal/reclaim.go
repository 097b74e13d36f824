package journal

import (
	"context"
	"fmt"
)

// Reclaim destages as if the budget were zero, because the backing volume has
// run out of space: recovery points beyond those that views, pins and readers
// hold are given up so that writes can go on. It returns the bytes of journal
// that were let go of; 0 means that nothing could be.
func (s *Store) Reclaim(ctx context.Context) (int64, error) {
	before := s.Stats().JournalBytes
	s.pressed.Store(true)
	defer s.pressed.Store(false)
	patient := s.impatience()
	defer patient()
	if err := s.Maintain(ctx); err != nil {
		return 0, fmt.Errorf("reclaim journal space of volume %s: %w", s.volume, err)
	}
	freed := before - s.Stats().JournalBytes
	s.cfg.Log.Warn("backing volume is short of space: history was given up", "volume", s.volume, "freedBytes", freed, "horizon", s.Horizon())
	return freed, nil
}
