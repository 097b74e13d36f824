package enginepod

import (
	"context"

	"github.com/lockstep-csi/lockstep/group"
)

// Fence implements control.Volume.
func (p *Pod) Fence(ctx context.Context, term uint64) error {
	if p.streams != nil {
		return p.streams.Fence(ctx, group.Term(term))
	}
	return p.fenceRecord(term)
}

// fenceRecord makes a fence durable.
func (p *Pod) fenceRecord(term uint64) error {
	if term <= p.recordNow().FencedBelow {
		return nil
	}
	return p.updateRecord(func(r *record) { r.FencedBelow = max(r.FencedBelow, term) })
}

// Lift implements control.Volume.
func (p *Pod) Lift(_ context.Context, givenUp, held uint64) error {
	lifted := func(r record) uint64 {
		if r.FencedBelow > givenUp {
			return r.FencedBelow
		}
		return min(r.FencedBelow, max(held, r.Orders.Term))
	}
	if r := p.recordNow(); lifted(r) == r.FencedBelow {
		return nil
	}
	return p.updateRecord(func(r *record) { r.FencedBelow = lifted(*r) })
}

// Controller implements control.Volume.
func (p *Pod) Controller() uint64 { return p.recordNow().Controller }

// NoteController implements control.Volume.
func (p *Pod) NoteController(number uint64) error {
	if p.Controller() >= number {
		return nil
	}
	err := p.updateRecord(func(r *record) { r.Controller = max(r.Controller, number) })
	if err != nil && p.unnoted.Swap(number) != number { // each of its calls tries it
		p.cfg.Log.Warn("which controller is the newest is not noted: until it is, an engine that starts again may hear the one before", "volume", p.cfg.Volume, "number", number, "error", err)
	}
	return err
}
