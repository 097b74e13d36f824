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
		return v.attachment != nil || v.waiting != nil
	}
	dev, r := engine.Guarded{Device: eng, Blocked: attached}, s.recordOf(v)
	if err := s.cfg.Exports.Add(r.ID.String(), dev, "live volume "+r.Name); err != nil {
		s.cfg.Log.Warn("volume is not shown to tools", "volume", r.ID, "error", err)
	}
}

func (s *Site) unexport(v *volume) {
	if s.cfg.Exports == nil {
		return
	}
	id := s.recordOf(v).ID
	if err := s.cfg.Exports.Remove(context.Background(), id.String()); err != nil {
		s.cfg.Log.Warn("ending a volume's export failed", "volume", id, "error", err)
	}
}
