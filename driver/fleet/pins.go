package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// PinPoint keeps a recovery point of a group under a name, see groups.PinPoint,
// and returns it with the size in bytes that each member had. Its engines are
// started if need be, and waited for no longer than Config.EngineWait: ErrNoEngine, and
// ErrNotPinned where nothing was begun.
func (f *Fleet) PinPoint(ctx context.Context, name, pin, at string) (group.Point, map[journal.VolumeID]int64, error) {
	// The past needs those that have left the group as well.
	var release func()
	err := within(ctx, f.cfg.EngineWait, func(ctx context.Context) (err error) {
		release, err = f.Wake(ctx, name, at != "")
		return err
	})
	if err != nil {
		return group.Point{}, nil, fmt.Errorf("%w: %w", ErrNotPinned, err)
	}
	defer release()
	point, err := f.groups.PinPoint(ctx, name, pin, at)
	if err != nil {
		return group.Point{}, nil, err
	}
	var sizes map[journal.VolumeID]int64
	err = within(ctx, f.cfg.EngineWait, func(ctx context.Context) (err error) {
		sizes, err = f.sizesAt(ctx, point)
		return err
	})
	return point, sizes, err
}

// sizesAt are the sizes that the members had at a point.
func (f *Fleet) sizesAt(ctx context.Context, point group.Point) (map[journal.VolumeID]int64, error) {
	sizes := make(map[journal.VolumeID]int64, len(point.Members))
	for id, at := range point.Members {
		v, err := f.volumeOf(id)
		if err != nil {
			return nil, err
		}
		client, err := f.connected(ctx, v)
		if err != nil {
			return nil, err
		}
		if sizes[id], err = client.SizeAt(ctx, at); err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

// UnpinPoint drops a pin from every volume of a group, those that have left it
// included. No error if none has it, or there is no such group. A volume that is
// deleted meanwhile has none. One that has been in several groups keeps what it has under the
// name for a point of another one. ErrNoEngine where an engine has not come within
// Config.EngineWait; the others have dropped it then.
func (f *Fleet) UnpinPoint(ctx context.Context, name, pin string) error {
	unlock, err := f.groups.LockPin(ctx, pin)
	if err != nil {
		return err
	}
	defer unlock()
	return within(ctx, f.cfg.EngineWait, func(ctx context.Context) error {
		dropping, ctx := errgroup.WithContext(ctx)
		for _, v := range f.inGroup(name, true) {
			dropping.Go(func() error {
				defer f.hold(v)()
				if err := f.unpin(ctx, v, name, pin); err != nil && !f.isGone(v) {
					return fmt.Errorf("volume %s: %w", f.recordOf(v).ID, err)
				}
				return nil
			})
		}
		return dropping.Wait()
	})
}

// unpin drops a group's pin from a volume once its engine has opened the store: before
// that it knows of none.
func (f *Fleet) unpin(ctx context.Context, v *volume, name, pin string) error {
	state, err := f.served(ctx, v)
	if errors.Is(err, control.ErrNoStore) && f.hasNothing(v) {
		return nil
	}
	if err != nil || state.Store == nil { // a replica of which nothing has arrived
		return err
	}
	client, err := f.connected(ctx, v)
	if err != nil {
		return err
	}
	if len(f.recordOf(v).Former) > 0 {
		pinned, left, err := client.PinnedCheckpoints(ctx, "") // of whatever group
		if err != nil {
			return err
		}
		at := state.Store.Pins[pin]
		if slices.ContainsFunc(slices.Concat(pinned, left), func(c journal.Checkpoint) bool { return c.Position == at && c.Group != name }) {
			return nil
		}
	}
	return client.Unpin(ctx, pin)
}

// isGone reports whether a volume is deleted, or just being.
func (f *Fleet) isGone(v *volume) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return v.gone
}
