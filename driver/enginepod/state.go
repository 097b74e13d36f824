package enginepod

import (
	"errors"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// State implements control.Volume.
func (p *Pod) State() (control.State, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := control.State{Volume: p.cfg.Volume, Incarnation: p.incarnation, Version: p.cfg.Version, Term: p.done.Term, Revision: p.done.Revision,
		FencedBelow: p.record.FencedBelow, Leaving: p.leaving}
	if p.device != nil {
		s.Device = p.device.Path()
		transport, fallback := p.device.Transport()
		if s.Transport = string(transport); fallback != nil {
			s.TransportFallback = fallback.Error()
		}
	}
	s.Replication = p.replicationState()
	err := p.failure
	if p.eng != nil {
		s.Store = p.storeState(p.eng.Store())
		if storeErr := p.eng.Store().Err(); storeErr != nil {
			err = storeErr
		}
	}
	switch {
	case p.filling:
		s.Reason = control.ReasonFilling
	case err != nil:
		s.Reason, s.Error = reasonOf(err), err.Error()
	}
	return s, p.changed
}

// storeState is called with mu held.
func (p *Pod) storeState(store *journal.Store) *control.StoreState {
	stats := store.Stats()
	s := &control.StoreState{
		SizeBytes: store.SizeBytes(), Tip: store.Tip(), Durable: store.Durable(), Horizon: store.Horizon(),
		JournalBytes: stats.JournalBytes, IndexExtents: stats.IndexExtents, IndexBytes: stats.IndexBytes,
		Timelines: store.Timelines(), Pins: store.Pins(), Space: stats.Space, Thinning: stats.Thinning,
	}
	if s.Damaged, s.Unrepairable = stats.Damaged, stats.Repairs.Unrepairable; s.Damaged > 0 {
		if places := store.Damaged(); len(places) > 0 {
			s.Damage = places[0].Error()
		}
	}
	s.Points, s.ShortByBytes = p.countPointsLocked(store), store.ShortByBytes()
	s.Oldest, s.Newest = store.OldestCheckpoint(), store.NewestCheckpoint()
	if total, free, err := p.cfg.FS.Space(p.cfg.Dir); err == nil {
		s.CapacityBytes, s.FreeBytes = total, free
	}
	return s
}

func reasonOf(err error) control.Reason {
	switch {
	case errors.Is(err, journal.ErrCorrupt):
		return control.ReasonDamaged
	case errors.Is(err, journal.ErrPoisoned), errors.Is(err, engine.ErrPoisoned):
		return control.ReasonPoisoned
	case errors.Is(err, journal.ErrFull), errors.Is(err, engine.ErrNoSpace):
		return control.ReasonFull
	case errors.Is(err, control.ErrLeaseLost):
		return control.ReasonLeaseLost
	}
	return control.ReasonNotOpen
}
