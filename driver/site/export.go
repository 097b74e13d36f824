package site

import (
	"context"

	"github.com/lockstep-csi/lockstep/engine"
)

// exported is a live volume as tools see it: never writable while the volume
// is attached, because whoever mounted it would not know of the writes.
type exported struct {
	*engine.Engine
	site   *Site
	volume *volume
}

// ReadOnly implements engine.Device.
func (e exported) ReadOnly() bool {
	e.site.mu.Lock()
	attached := e.volume.attachment != nil
	e.site.mu.Unlock()
	return attached || e.Engine.ReadOnly()
}

// WriteAt implements engine.Device.
func (e exported) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if e.ReadOnly() {
		return engine.ErrReadOnly
	}
	return e.Engine.WriteAt(ctx, p, off, fua)
}

// Discard implements engine.Device.
func (e exported) Discard(ctx context.Context, off, length int64) error {
	if e.ReadOnly() {
		return engine.ErrReadOnly
	}
	return e.Engine.Discard(ctx, off, length)
}

// WriteZeroes implements engine.Device.
func (e exported) WriteZeroes(ctx context.Context, off, length int64, fua bool) error {
	if e.ReadOnly() {
		return engine.ErrReadOnly
	}
	return e.Engine.WriteZeroes(ctx, off, length, fua)
}

func (s *Site) export(v *volume, eng *engine.Engine) {
	if s.cfg.Exports == nil {
		return
	}
	if err := s.cfg.Exports.Add(v.record.ID.String(), exported{eng, s, v}, "live volume "+v.record.Name); err != nil {
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
