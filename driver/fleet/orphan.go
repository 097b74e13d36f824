package fleet

import (
	"context"
	"fmt"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// IsReplica reports whether a volume is a member of a group that another site is
// primary of. One that was being made when this site gave the group up is none.
func (f *Fleet) IsReplica(id journal.VolumeID) bool {
	v, err := f.volumeOf(id)
	if err != nil {
		return false
	}
	r := f.recordOf(v)
	st, err := f.groups.State(r.Group)
	return err == nil && !r.Retired && st.Role == group.RoleReplica && !f.isBeingMade(v)
}

// IsOrphaned reports whether a volume is a replica that no primary feeds any
// more: its group has ended there, or it has left the group there. A retired
// volume of this site's own counts as well: whoever asks knows which are.
func (f *Fleet) IsOrphaned(id journal.VolumeID) bool {
	return f.CheckOrphaned(id) == nil
}

// CheckOrphaned is IsOrphaned with a reason: ErrNotFound, or group.ErrRole.
func (f *Fleet) CheckOrphaned(id journal.VolumeID) error {
	v, err := f.volumeOf(id)
	if err != nil {
		return err
	}
	return f.fed(v)
}

// fed returns nil for a volume that is orphaned, and otherwise what feeds it.
func (f *Fleet) fed(v *volume) error {
	r := f.recordOf(v)
	if r.Retired {
		return nil
	}
	st, err := f.groups.State(r.Group)
	switch {
	case err != nil:
		return nil // it is in no group
	case st.Role != group.RoleReplica:
		return fmt.Errorf("%s: this site is primary for group %s: delete its claim: %w", r.title(), r.Group, group.ErrRole)
	case st.Orphaned.IsZero():
		return fmt.Errorf("%s is a replica of group %s, whose primary is site %s: delete its claim there first: %w", r.title(), r.Group, st.Source, group.ErrRole)
	}
	return nil
}

// RemoveReplica removes an orphaned volume with everything it has. ErrNotFound;
// group.ErrRole for one that is not orphaned; groups.ErrInUse for one that is
// attached or shown by a view.
func (f *Fleet) RemoveReplica(ctx context.Context, id journal.VolumeID) error {
	if _, err := f.volumeOf(id); err != nil {
		return err
	}
	return f.withDetached(ctx, id, func(v *volume) error {
		if err := f.fed(v); err != nil {
			return err
		}
		return f.remove(ctx, v)
	})
}
