package fleet

import (
	"context"

	"github.com/lockstep-csi/lockstep/driver/groups"
)

// FencerOf stops what feeds the replicas of a fleet, as a failover does first.
func FencerOf(f *Fleet) groups.Fencer { return fencer{f} }

// LockGroup takes a group's key.
func LockGroup(ctx context.Context, f *Fleet, group string) (unlock func(), err error) {
	return f.locks.Lock(ctx, groupKey(group))
}

// KeepPointOf is what is done for each replica every KeepPointEvery.
func KeepPointOf(f *Fleet, group string) error {
	st, err := f.groups.State(group)
	if err == nil {
		f.keepPoint(st)
	}
	return err
}
