package site

import (
	"context"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// isReplica reports whether a volume is a member of a group that another site is
// primary of. One that was being made when this site gave the group up is none.
func (s *Site) isReplica(id journal.VolumeID) bool {
	v, err := s.volumeOf(id)
	if err != nil {
		return false
	}
	r := s.recordOf(v)
	st, err := s.groups.State(r.Group)
	return err == nil && !r.Retired && st.Role == group.RoleReplica && slices.Contains(st.Members, id)
}

// CheckOrphaned returns nil for a volume that no primary feeds any more: its
// group has ended there, or it has left the group there; or that this site became the
// primary of before anything of it had arrived. A retired volume of this
// site's own counts as well: whoever asks knows which are. Otherwise ErrNotFound,
// or group.ErrRole with what feeds it.
func (s *Site) CheckOrphaned(id journal.VolumeID) error {
	v, err := s.volumeOf(id)
	if err != nil {
		return err
	}
	r := s.recordOf(v)
	st, err := s.groups.State(r.Group)
	switch {
	case r.Retired, err != nil:
		return nil
	case s.isAbsent(id):
		return nil
	case st.Role != group.RoleReplica:
		return fmt.Errorf("volume %s: this site is primary for group %s: delete the volume: %w", id, r.Group, group.ErrRole)
	case st.Orphaned.IsZero():
		return fmt.Errorf("volume %s is a replica of group %s, whose primary is site %s: delete it there first: %w", id, r.Group, st.Source, group.ErrRole)
	}
	return nil
}

// RemoveReplica removes an orphaned volume with everything it has. Errors are
// those of CheckOrphaned, and groups.ErrInUse for one that is attached or shown by
// a view.
func (s *Site) RemoveReplica(ctx context.Context, id journal.VolumeID) error {
	if _, err := s.volumeOf(id); err != nil {
		return err
	}
	return s.withDetached(ctx, id, func(v *volume) error {
		if err := s.CheckOrphaned(id); err != nil {
			return err
		}
		return s.remove(ctx, v)
	})
}
