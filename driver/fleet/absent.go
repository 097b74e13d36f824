package fleet

import (
	"context"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
)

// A member that joins a group at its primary is announced to the replica at once, and
// its first image takes as long as it takes. A failover meanwhile makes a site primary
// of a volume of which it has nothing. That volume is absent here: no store is made
// for it, because one of zeroes would be taken by its users for theirs, and would
// take the place of the image that the old primary has. The group does without it,
// and what the old primary has of it stays as it is.

// mayMake reports whether an engine may be told to make a volume's store, or has one:
// not if the volume came from a peer, by its newest orders, and no engine has told this
// controller, or one before it, of a store. Only who has made a volume says how large its
// store is to be.
func mayMake(r record, told *control.StoreState) bool {
	return r.Orders.Term == 0 || r.Orders.SizeBytes != 0 || r.Arrived || told != nil
}

// isAbsent reports whether this site is primary for a volume of which nothing has ever
// arrived here.
func (f *Fleet) isAbsent(v *volume) bool {
	st, err := f.groups.State(f.recordOf(v).Group)
	if err != nil || st.Role != group.RolePrimary {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return v.isAbsentLocked()
}

// isAbsentLocked is isAbsent for a volume of a group that this site is primary for.
// Fleet.mu is held.
func (v *volume) isAbsentLocked() bool {
	return !v.record.Retired && !mayMake(v.record, v.state.Store)
}

// hasNothing is isAbsent also for a volume that has left its group before anything of it
// arrived here, at whatever role: nobody sends it any more.
func (f *Fleet) hasNothing(v *volume) bool {
	f.mu.Lock()
	nothing := v.leftEmptyLocked()
	f.mu.Unlock()
	return nothing || f.isAbsent(v)
}

// leftEmptyLocked reports whether a volume has left its group before anything of it arrived
// here. Fleet.mu is held.
func (v *volume) leftEmptyLocked() bool {
	return v.record.Retired && !mayMake(v.record, v.state.Store)
}

// noteArrival makes durable that a volume which came from a peer is there: a controller that
// starts once this site is primary for it must not take it for absent until its engine answers.
func (f *Fleet) noteArrival(ctx context.Context, v *volume) error {
	if mayMake(f.recordOf(v), nil) {
		return nil
	}
	return f.change(ctx, v, func(r *record) { r.Arrived = true })
}
