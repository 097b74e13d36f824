package fleet

import (
	"context"
	"errors"
	"time"
)

// handoverTimeout bounds one attempt at a handover. The engine runs on when it
// ends in vain.
const handoverTimeout = time.Minute

// handover is the replacing of an engine that runs by another process on its
// node, while it is being watched. It is used by the goroutine that tends the
// volume; what it starts may take long, and is given up for anything else that
// concerns the engine.
type handover struct {
	fleet *Fleet
	v     *volume
	ctx   context.Context // of the engine's watch

	stop    context.CancelFunc // nil while none is under way
	done    chan error         // the outcome of the one that is
	upgrade bool               // why it is
	began   bool               // one was begun for this engine
	leaving string             // incarnation whose leaving was answered
}

func (f *Fleet) newHandover(ctx context.Context, v *volume) *handover {
	return &handover{fleet: f, v: v, ctx: ctx, done: make(chan error, 1)}
}

// consider begins a handover if the engine was told to end, or is to be
// upgraded, unless one is under way. Only an engine that is wanted although it
// leaves gets a successor: one that has said so since the plan was made is
// looked at again.
func (h *handover) consider(p plan) {
	if h.stop != nil {
		return
	}
	f := h.fleet
	f.mu.Lock()
	outdated, answers := f.outdatedLocked(h.v), h.v.client != nil
	f.mu.Unlock()
	leaves := p.leaving != "" && h.leaving != p.leaving
	if !answers || !leaves && !outdated {
		return
	}
	do := f.cfg.Engines.Upgrade
	if h.upgrade = !leaves; leaves {
		h.leaving, do = p.leaving, f.cfg.Engines.HandOver
	}
	ctx, stop := context.WithTimeout(h.ctx, handoverTimeout)
	h.stop, h.began = stop, true
	f.joined.Go(func() { h.done <- do(ctx, p.spec) })
}

// ended takes the outcome of a handover.
func (h *handover) ended(err error) {
	h.stop()
	h.stop = nil
	f := h.fleet
	if h.upgrade {
		f.upgraded(h.v, err)
	}
	if err != nil {
		h.began = false
		if h.ctx.Err() == nil && !errors.Is(err, ErrHeld) {
			f.cfg.Log.Warn("engine is not handed over", "volume", f.recordOf(h.v).ID, "error", err)
		}
	}
}

// giveUp ends a handover that is under way and waits for that; began reports
// whether one was begun and has not failed, so that a successor may be there.
func (h *handover) giveUp() (began bool) {
	began = h.began
	if h.stop != nil {
		h.stop()
		h.ended(<-h.done)
	}
	return began
}
