package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// growTimeout bounds one attempt to make a replica's backing volume bigger,
	// growPause is between two.
	growTimeout = 2 * time.Minute
	growPause   = 5 * time.Second
	// growBriefly is growTimeout of a primary's, which somebody may want to
	// attach meanwhile.
	growBriefly = 10 * time.Second
)

// budgetOf is the journal's budget that a volume of a size has in its group now.
func (f *Fleet) budgetOf(v *volume, sizeBytes int64) (int64, error) {
	st, err := f.groups.State(f.recordOf(v).Group)
	if err != nil {
		return 0, err
	}
	return journalBytes(st.Settings, sizeBytes), nil
}

// growBacking makes a volume's backing volume big enough for a size and a budget, and then
// notes both. It returns when the engine can use the room. The volume's key is held.
func (f *Fleet) growBacking(ctx context.Context, v *volume, sizeBytes, budget int64) error {
	r := f.recordOf(v)
	next := r.Backing
	next.VolumeBytes, next.JournalBytes = sizeBytes, budget
	next.Group = r.Group
	err := f.cfg.Backing.Expand(ctx, next)
	if errors.Is(err, ErrNeedsEngine) {
		defer f.hold(v)()
		if err := f.answerSoon(ctx, v); err != nil {
			return err
		}
		err = f.cfg.Backing.Expand(ctx, next)
	}
	if err != nil {
		return fmt.Errorf("expand backing volume of %s: %w", r.title(), err)
	}
	return f.change(ctx, v, func(r *record) { r.SizeBytes, r.Backing = max(r.SizeBytes, sizeBytes), next })
}

// follow has a volume's backing volumes become as big as they should be: a
// replica's as its primary's volume has, and those of both as the journal's budget
// has. It tries until it has, and never waits: records do not either.
func (f *Fleet) follow(v *volume) {
	if !f.isShort(v) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.growAsked++
	if f.ctx.Err() != nil || v.growing {
		return
	}
	v.growing = true
	began := f.cfg.Clock.Now()
	f.joined.Go(func() {
		for f.stillGrows(v) {
			tried, err := f.catchUp(v)
			if errors.Is(err, ErrNotExpandable) && f.resign(v, tried) {
				f.cfg.Log.Info("backing volume does not grow with the journal's budget: history is as long as there is room", "volume", f.recordOf(v).ID, "error", err)
				continue
			}
			// What merely takes long is no trouble yet.
			underWay := errors.Is(err, context.DeadlineExceeded) && f.cfg.Clock.Now().Sub(began) < growTimeout
			if !underWay {
				f.mu.Lock()
				v.trouble = err
				f.mu.Unlock()
			}
			if err == nil {
				continue
			}
			if !underWay && !f.isClosed(err) {
				f.cfg.Log.Warn("backing volume does not grow", "volume", f.recordOf(v).ID, "error", err)
			}
			timer := f.cfg.Clock.NewTimer(growPause)
			select {
			case <-timer.C():
			case <-f.ctx.Done():
				timer.Stop()
			}
		}
	})
}

// isShort reports whether a backing volume is smaller than it should be. One that
// is not there yet is made first.
func (f *Fleet) isShort(v *volume) bool {
	r := f.recordOf(v)
	if r.Placement == nil || r.Retired {
		return false
	}
	if r.Backing.VolumeBytes < r.SizeBytes {
		return true
	}
	budget, err := f.budgetOf(v, r.SizeBytes)
	if err != nil {
		return false // it is in no group
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return r.Backing.JournalBytes < budget && v.rigid != budget
}

// resign gives up to grow a backing volume with a budget that was tried, and reports whether that
// is all that it is too small for. A journal beside the base shares its room with
// it, and does with what there is: the engine has the budget at once. Tried again
// with the next budget, or by the next controller.
func (f *Fleet) resign(v *volume, tried int64) bool {
	r := f.recordOf(v)
	if r.Backing.JournalClass != "" || r.Backing.VolumeBytes < r.SizeBytes {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.rigid = tried
	return true
}

// stillGrows reports whether a backing volume is too small; if it is not, whoever
// asks is to end.
func (f *Fleet) stillGrows(v *volume) bool {
	for {
		f.mu.Lock()
		asked := v.growAsked
		f.mu.Unlock()
		short := f.isShort(v)
		f.mu.Lock()
		if asked == v.growAsked {
			defer f.mu.Unlock()
			v.growing = short && f.ctx.Err() == nil && !v.gone
			if !short {
				v.trouble = nil
			}
			return v.growing
		}
		f.mu.Unlock() // somebody found it short meanwhile, and left it to this one
	}
}

// catchUp makes one attempt, and then tells the engine. tried is the budget that it is for.
func (f *Fleet) catchUp(v *volume) (tried int64, err error) {
	id, timeout := f.recordOf(v).ID, growBriefly
	if f.IsReplica(id) {
		timeout = growTimeout
	}
	ctx, cancel := context.WithTimeout(f.ctx, timeout)
	defer cancel()
	unlock, err := f.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return 0, err
	}
	defer unlock()
	size := f.recordOf(v).SizeBytes
	if tried, err = f.budgetOf(v, size); err != nil {
		return 0, err
	}
	if err := f.growBacking(ctx, v, size, tried); err != nil {
		return tried, err
	}
	if _, err := f.reorder(ctx, v, nil); err != nil && !errors.Is(err, ErrNoEngine) {
		return tried, err
	}
	return tried, nil
}
