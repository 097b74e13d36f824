package site

import (
	"context"

	"github.com/lockstep-csi/lockstep/engine"
)

func (s *Site) export(v *volume, eng *engine.Engine) {
	if s.cfg.Exports == nil {
		return
	}
	// Whoever mounted the device would not know of other writes.
	attached := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return v.attachment != nil
	}
	dev := engine.Guarded{Device: eng, Blocked: attached}
	if err := s.cfg.Exports.Add(v.record.ID.String(), dev, "live volume "+v.record.Name); err != nil {
		s.cfg.Log.Warn("volume is not shown to tools", "volume", v.record.ID, "error", err)
	}
}

func (s *Site) unexport(v *volume) {
	if s.cfg.Exports == nil {
		return
	}
	if err := s.cfg.Exports.Remove(context.Background(), v.record.ID.String()); err != nil {
		s.cfg.Log.Warn("ending a volume's export failed", "volume", v.record.ID, "error", err)
	}
}
