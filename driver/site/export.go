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
		return v.attachment != nil || v.waiting != nil || v.kept
	}
	dev, r := &engine.Guarded{Device: eng, Blocked: attached}, s.recordOf(v)
	s.mu.Lock()
	v.shown = dev
	s.mu.Unlock()
	if err := s.cfg.Exports.Add(r.ID.String(), dev, "live volume "+r.Name); err != nil {
		s.cfg.Log.Warn("volume is not shown to tools", "volume", r.ID, "error", err)
	}
}

// settleExport waits for what tools have written before the volume was attached.
func (s *Site) settleExport(ctx context.Context, v *volume) error {
	s.mu.Lock()
	dev := v.shown
	s.mu.Unlock()
	if dev == nil {
		return nil
	}
	return dev.Settle(ctx)
}

// setKept notes that the holder keeps the volume's device, and that it is going to be
// served again, while attachment and waiting say nothing of it.
func (s *Site) setKept(v *volume, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.kept = kept
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
