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
)

// growBacking makes a volume's backing volume big enough for a size, and then
// notes both. It returns when the engine can use the room. The volume's key is held.
func (f *Fleet) growBacking(ctx context.Context, v *volume, sizeBytes int64) error {
	r := f.recordOf(v)
	st, err := f.groups.State(r.Group)
	if err != nil {
		return err
	}
	next := r.Backing
	next.VolumeBytes, next.JournalBytes = sizeBytes, journalBytes(st.Settings, sizeBytes)
	next.Group = r.Group
	err = f.cfg.Backing.Expand(ctx, next)
	if errors.Is(err, ErrNeedsEngine) {
		if _, err := f.connected(ctx, v); err != nil {
			return err
		}
		err = f.cfg.Backing.Expand(ctx, next)
	}
	if err != nil {
		return fmt.Errorf("expand backing volume of volume %s: %w", r.ID, err)
	}
	return f.change(ctx, v, func(r *record) { r.SizeBytes, r.Backing = max(r.SizeBytes, sizeBytes), next })
}

// followSize has a replica's backing volume become as big as its primary's volume
// has. It tries until it has, and never waits: the primary's records do not.
func (f *Fleet) followSize(v *volume) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil || v.growing || v.record.Placement == nil || v.record.Backing.VolumeBytes >= v.record.SizeBytes {
		return // one that is not there yet is made first
	}
	v.growing = true
	f.joined.Go(func() {
		for f.stillGrows(v) {
			err := f.growReplica(v)
			f.mu.Lock()
			v.trouble = err
			f.mu.Unlock()
			if err == nil {
				continue
			}
			if !f.isClosed(err) {
				f.cfg.Log.Warn("backing volume of a replica does not grow", "volume", f.recordOf(v).ID, "error", err)
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

// stillGrows reports whether a replica's backing volume is too small; if it is
// not, whoever asks is to end.
func (f *Fleet) stillGrows(v *volume) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.growing = f.ctx.Err() == nil && !v.gone && !v.record.Retired && v.record.Backing.VolumeBytes < v.record.SizeBytes
	return v.growing
}

func (f *Fleet) growReplica(v *volume) error {
	ctx, cancel := context.WithTimeout(f.ctx, growTimeout)
	defer cancel()
	unlock, err := f.locks.Lock(ctx, volumeKey(f.recordOf(v).ID))
	if err != nil {
		return err
	}
	defer unlock()
	return f.growBacking(ctx, v, f.recordOf(v).SizeBytes)
}
