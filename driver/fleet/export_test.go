package fleet

import "context"

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
