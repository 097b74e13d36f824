package site

import (
	"context"
	"fmt"
	"path"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// A member that joins a group at its primary is announced to the replica at once, and
// its first image takes as long as it takes. A failover meanwhile makes this site primary
// of a volume of which it has nothing. That volume is absent here: no store is made for
// it, because one of zeroes would be taken by its users for theirs, and would take the
// place of the image that the old primary has. The group does without it, and what the
// old primary has of it stays as it is.

// hasNothing reports whether nothing has ever arrived here of a volume of another site.
// Who makes a volume names its store before it is one.
func (v *volume) hasNothing() bool { return v.record.Store == "" && !v.record.Retired }

// withoutMissing is a replica's record that names no store where there is none: who made the
// volume here, or deleted it, as the primary that this site was, did not come to its end. A
// whole image can come then, and a failover does without it.
func (s *Site) withoutMissing(r record) record {
	s.mu.Lock()
	v := s.volumes[r.ID]
	open := v != nil && v.eng != nil
	s.mu.Unlock()
	if r.Store == "" || r.From != "" || r.Retired || open || s.checkNoStore(r.ID) != nil {
		return r
	}
	s.cfg.Log.Warn("there is no store of a replica, which was not made or deleted to the end: it takes a whole image", "volume", r.ID, "group", r.Group)
	if v != nil {
		s.mu.Lock()
		v.failed = nil
		s.mu.Unlock()
	}
	r.Store = ""
	return r
}

// forgetMissing does that for the replicas of the site; see recallFound.
func (s *Site) forgetMissing(records []record) error {
	for _, r := range records {
		st, err := s.groups.State(r.Group)
		if err != nil || st.Claimed() != group.RoleReplica {
			continue // nobody's, or to be made or deleted once more
		}
		if next := s.withoutMissing(r); next.Store != r.Store {
			if err := s.setRecord(r.ID, next); err != nil {
				return err
			}
		}
	}
	return nil
}

// recallFound has records name stores again that forgetMissing did not find, and that are there
// now: what they are on was not mounted then, or could not be read. That of a volume which this
// site has failed over without stays where it is: what the group has become is without it.
func (s *Site) recallFound(records []record) error {
	for i, r := range records {
		store := path.Join(s.volumeDir(r.ID), storeDir(r.Generation))
		if r.Store != "" || r.Generation == 0 || !journal.IsStore(s.cfg.FS, store) {
			continue
		}
		st, err := s.groups.State(r.Group)
		if err == nil && !r.Retired && st.Claimed() == group.RolePrimary {
			s.cfg.Log.Warn("a store is there again of a volume that this site has failed over without: move it out of the site's directory to keep it", "volume", r.ID, "group", r.Group, "store", store)
			continue
		}
		r.Store = storeDir(r.Generation)
		if err := s.saveRecord(r); err != nil {
			return err
		}
		s.cfg.Log.Info("the store of a replica is there again", "volume", r.ID, "group", r.Group, "store", store)
		records[i] = r
	}
	return nil
}

// isAbsent reports whether this site is primary, or about to be, for a volume of which
// nothing has ever arrived here.
func (s *Site) isAbsent(id journal.VolumeID) bool {
	s.mu.Lock()
	v := s.volumes[id]
	nothing := v != nil && v.hasNothing()
	name := ""
	if nothing {
		name = v.record.Group
	}
	s.mu.Unlock()
	if !nothing {
		return false
	}
	st, err := s.groups.State(name)
	return err == nil && st.Claimed() == group.RolePrimary
}

// absentErr is groups.ErrAbsent of a volume, for people.
func absentErr(id journal.VolumeID) error {
	return fmt.Errorf("volume %s: %w: the site that was the primary has it", id, groups.ErrAbsent)
}

// present are those of a group's members of which this site has something, in order.
func (s *Site) present(ids []journal.VolumeID) (present []journal.VolumeID) {
	for _, id := range ids {
		if !s.isAbsent(id) {
			present = append(present, id)
		}
	}
	return present
}

// absent is a member of which there is nothing here. What a group does to all of its
// members is done to it without effect, and it takes part in no point.
type absent struct{ id journal.VolumeID }

var _ groups.Member = absent{}

func (m absent) Volume() journal.VolumeID { return m.id }

func (m absent) Newest(context.Context) (journal.Checkpoint, error) {
	return journal.Checkpoint{}, absentErr(m.id)
}

// Nobody can write to it, and it has nothing to keep or to use.
func (m absent) SetWritable(context.Context, bool) error            { return nil }
func (m absent) SetRetention(context.Context, group.Settings) error { return nil }
func (m absent) CheckUnused(context.Context) error                  { return nil }
func (m absent) Withdraw(context.Context) error                     { return nil }
func (m absent) Unpin(context.Context, string) error                { return nil }
func (m absent) Abort(context.Context, uint64)                      {}

func (m absent) Fork(context.Context, journal.Position, string) error { return absentErr(m.id) }
func (m absent) Pin(context.Context, string, journal.Position) error  { return absentErr(m.id) }
func (m absent) Dirty(context.Context) (bool, error)                  { return false, absentErr(m.id) }
func (m absent) Flush(context.Context) error                          { return absentErr(m.id) }

func (m absent) PinCheckpoint(context.Context, string, journal.CheckpointNumber, journal.Position) error {
	return absentErr(m.id)
}

func (m absent) Hold(context.Context, string, journal.Position, journal.CheckpointNumber, time.Duration) error {
	return absentErr(m.id)
}

func (m absent) Prepare(context.Context, uint64, time.Duration) error { return absentErr(m.id) }

func (m absent) Commit(context.Context, uint64, journal.Checkpoint) (journal.Position, error) {
	return journal.Position{}, absentErr(m.id)
}
