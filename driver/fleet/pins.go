package fleet

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/group"
)

// PinPoint keeps a recovery point of a group under a name; see groups.PinPoint.
// Its engines are started if need be.
func (f *Fleet) PinPoint(ctx context.Context, name, pin, at string) (group.Point, error) {
	// The past needs those that have left the group as well.
	release, err := f.Wake(ctx, name, at != "")
	if err != nil {
		return group.Point{}, err
	}
	defer release()
	return f.groups.PinPoint(ctx, name, pin, at)
}

// UnpinPoint drops a pin from every volume of a group, those that have left it
// included. No error if none has it, or there is no such group.
func (f *Fleet) UnpinPoint(ctx context.Context, name, pin string) error {
	unlock, err := f.groups.LockPin(ctx, pin)
	if err != nil {
		return err
	}
	defer unlock()
	dropping, ctx := errgroup.WithContext(ctx)
	for _, v := range f.inGroup(name, true) {
		dropping.Go(func() error {
			defer f.hold(v)()
			client, err := f.connected(ctx, v)
			if err == nil {
				err = client.Unpin(ctx, pin)
			}
			if err != nil {
				return fmt.Errorf("volume %s: %w", f.recordOf(v).ID, err)
			}
			return nil
		})
	}
	return dropping.Wait()
}
