package site

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// NewVolume is a volume to be made.
type NewVolume struct {
	ID        journal.VolumeID
	Name      string
	SizeBytes int64
	Group     string
	Settings  group.Settings // of the group, if it does not exist yet
	Image     *Image         // nil: zeroes
}

// Image is the content of a member at a pinned point.
type Image struct {
	Member journal.VolumeID
	Pin    string
}

// CreateVolume makes a volume and a member of its group. Idempotent, also
// after a crash in the midst of an earlier call. It takes as long as copying
// the image takes, and the group goes on meanwhile: it may be rewound, and given up to
// another primary (group.ErrRole).
func (s *Site) CreateVolume(ctx context.Context, n NewVolume) error {
	unlock, err := s.locks.Lock(ctx, createKey(n.ID))
	if err != nil {
		return err
	}
	defer unlock()
	var v *volume
	err = s.inGroup(ctx, n, func(group.Settings) (err error) {
		v, err = s.beginStore(n)
		return err
	})
	if err != nil {
		return err
	}
	if s.isUnmade(v) {
		if err := s.fillStore(ctx, s.recordOf(v), n); err != nil && !errors.Is(err, journal.ErrExists) {
			return fmt.Errorf("create volume %s: %w", n.ID, err)
		}
	}
	return s.inGroup(ctx, n, func(settings group.Settings) error {
		v, err := s.beginStore(n) // as it is by now
		if err == nil {
			err = s.openStore(v, settings)
		}
		if err != nil {
			return err
		}
		return s.groups.Join(ctx, n.Group, settings, n.ID)
	})
}

// inGroup calls fn with the keys of a new volume and of its group held, and with the
// settings that the group has, or is to have. group.ErrRole unless this site is its
// primary.
func (s *Site) inGroup(ctx context.Context, n NewVolume, fn func(group.Settings) error) error {
	unlock, err := s.locks.Lock(ctx, volumeKey(n.ID), groups.Key(n.Group))
	if err != nil {
		return err
	}
	defer unlock()
	settings := n.Settings.WithDefaults()
	if err := settings.Validate(); err != nil {
		return fmt.Errorf("create volume %s: %w", n.ID, err)
	}
	st, err := s.groups.State(n.Group)
	if err == nil && st.Role != group.RolePrimary {
		return fmt.Errorf("create volume %s in group %s: site %s is its %s: %w", n.ID, n.Group, s.cfg.Name, st.Role, group.ErrRole)
	}
	if err == nil {
		settings = st.Settings
	} else if !errors.Is(err, group.ErrNotFound) {
		return err
	}
	return fn(settings)
}

// beginStore makes the record of a new volume, or finds what an earlier call made. The
// record comes before the store, so that nothing is left that nobody knows of.
func (s *Site) beginStore(n NewVolume) (*volume, error) {
	s.mu.Lock()
	v := s.volumes[n.ID]
	s.mu.Unlock()
	if v == nil {
		if err := s.checkNoStore(n.ID); err != nil {
			return nil, fmt.Errorf("create volume %s: %w", n.ID, err)
		}
		v = &volume{record: record{ID: n.ID, Name: n.Name, Group: n.Group, SizeBytes: n.SizeBytes, Store: storeDir(1), Generation: 1, OwnJournal: s.cfg.JournalRoot != ""}}
		if err := s.saveRecord(v.record); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.volumes[n.ID] = v
		s.mu.Unlock()
	}
	r := s.recordOf(v)
	switch {
	case r.Retired:
		return nil, fmt.Errorf("volume %s was deleted, and is kept for its points in group %s: %w", n.ID, r.Group, journal.ErrExists)
	case r.Group != n.Group, v.eng != nil && v.store().SizeBytes() < n.SizeBytes:
		return nil, fmt.Errorf("volume %s exists in group %s: %w", n.ID, r.Group, journal.ErrExists)
	case r.Store == "":
		return nil, fmt.Errorf("volume %s is a replica that holds nothing yet: %w", n.ID, group.ErrRole)
	}
	return v, nil
}

// isUnmade reports whether a volume's store is not open.
func (s *Site) isUnmade(v *volume) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return v.eng == nil
}

// createKey is held while a volume is made, also without the keys of the volume and its
// group, which are taken behind it.
func createKey(id journal.VolumeID) string { return "create/" + id.String() }

// fillStore creates the store with its first content.
func (s *Site) fillStore(ctx context.Context, r record, n NewVolume) error {
	if err := s.makeVolumeDir(n.ID); err != nil {
		return err
	}
	cfg := s.storeConfig(n.ID, r.Store, r.OwnJournal)
	im, err := journal.NewImport(cfg, journal.Spec{Volume: n.ID, SizeBytes: n.SizeBytes}, journal.Position{}, nil)
	if err != nil {
		return err
	}
	if n.Image != nil {
		if err := s.copyImage(ctx, im, n.SizeBytes, *n.Image); err != nil {
			return errors.Join(err, im.Abort())
		}
	}
	return im.Commit()
}

const copyChunkBytes = 1 << 20

// copyImage writes a pinned image into an import of sizeBytes, data only; what
// lies beyond the image's size stays zeroes.
func (s *Site) copyImage(ctx context.Context, im *journal.Import, sizeBytes int64, from Image) error {
	eng, err := s.engineOf(from.Member)
	if err != nil {
		return err
	}
	at, ok := eng.Store().Pins()[from.Pin]
	if !ok {
		return fmt.Errorf("volume %s has no pin %q: %w", from.Member, from.Pin, group.ErrNoPoint)
	}
	view, err := eng.Store().View(at)
	if err != nil {
		return err
	}
	defer view.Close()
	if view.SizeBytes() > sizeBytes {
		return fmt.Errorf("image of volume %s has %d bytes, the new volume %d: %w", from.Member, view.SizeBytes(), sizeBytes, journal.ErrRange)
	}
	buf := make([]byte, copyChunkBytes)
	for off := int64(0); off < view.SizeBytes(); {
		start, length, err := view.NextData(off)
		if err != nil || length == 0 {
			return err
		}
		for end := start + length; start < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(int64(len(buf)), end-start)]
			if err := view.ReadAt(p, start); err != nil {
				return err
			}
			if err := im.WriteAt(p, start); err != nil {
				return err
			}
			start += int64(len(p))
		}
		off = start
	}
	return nil
}

// RetireVolume takes a detached volume out of its group but keeps its store
// for the pins that need it. No error if there is no such volume. A replica
// stays as it is: who is a member is for its primary to say.
func (s *Site) RetireVolume(ctx context.Context, id journal.VolumeID) error {
	if s.isReplica(id) {
		return nil
	}
	return s.withDetached(ctx, id, func(v *volume) error {
		if s.isReplica(id) { // demoted while this waited
			return nil
		}
		if v.eng != nil {
			if err := v.eng.StopChanges(ctx); err != nil {
				return err
			}
		}
		next := s.recordOf(v)
		if err := s.groups.Leave(ctx, next.Group, id, false); err != nil {
			return err
		}
		next.Retired = true
		return s.setRecord(id, next)
	})
}

// DeleteVolume removes a detached volume with everything it has. No error if
// there is no such volume. A replica stays as it is; see RemoveReplica.
func (s *Site) DeleteVolume(ctx context.Context, id journal.VolumeID) error {
	if s.isReplica(id) {
		return nil
	}
	return s.withDetached(ctx, id, func(v *volume) error {
		if s.isReplica(id) { // demoted while this waited
			return nil
		}
		return s.remove(ctx, v)
	})
}

// remove takes a detached volume away. Its keys are held.
func (s *Site) remove(ctx context.Context, v *volume) error {
	r := s.recordOf(v)
	id := r.ID
	if err := s.checkReach(r); err != nil {
		return err
	}
	if err := s.groups.Leave(ctx, r.Group, id, true); err != nil {
		return err
	}
	if err := s.closeStore(v); err != nil {
		return err
	}
	if err := s.removeVolumeDir(id); err != nil {
		return fmt.Errorf("delete volume %s: %w", id, err)
	}
	// The record goes last: until then the next call finds the rest.
	if err := s.deleteRecord(id); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.volumes, id)
	s.mu.Unlock()
	return nil
}

// withDetached runs fn under the keys of a volume that is not attached, or being made.
func (s *Site) withDetached(ctx context.Context, id journal.VolumeID, fn func(*volume) error) error {
	v, err := s.volumeOf(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	unlock, err := s.locks.Lock(ctx, createKey(id), volumeKey(id), groups.Key(s.recordOf(v).Group))
	if err != nil {
		return err
	}
	defer unlock()
	if v, err = s.volumeOf(id); errors.Is(err, ErrNotFound) {
		return nil // another call was first
	}
	if _, attached, err := s.keptDevice(ctx, v); err != nil {
		return err
	} else if attached {
		return fmt.Errorf("volume %s is attached: %w", id, groups.ErrInUse)
	}
	if err := errors.Join(s.checkUnviewed(id), s.checkUnforked(id)); err != nil {
		return err
	}
	return fn(v)
}

// ExpandVolume makes a volume at least sizeBytes big, and its device too.
func (s *Site) ExpandVolume(ctx context.Context, id journal.VolumeID, sizeBytes int64) error {
	unlock, err := s.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	eng, err := s.engineOf(id)
	if err != nil {
		return err
	}
	if eng.SizeBytes() < sizeBytes {
		if err := eng.Resize(ctx, sizeBytes); err != nil {
			return err
		}
	}
	v, err := s.volumeOf(id)
	if err != nil || v.attachment == nil {
		return err
	}
	_, err = s.cfg.Holder.Resize(ctx, v.attachment.config.Volume)
	return err
}

// applyRetention applies a group's window and budget to a member's store.
func applyRetention(store *journal.Store, settings group.Settings) {
	bytes := settings.JournalBytes
	if bytes == 0 {
		bytes = journal.DefaultBudget(store.SizeBytes())
	}
	history, err := journal.ParseHistory(settings.History)
	if err != nil { // it was checked where it came from; without one everything is kept
		history = nil
	}
	store.SetRetention(journal.Retention{JournalBytes: bytes, Window: settings.Window, History: history})
}
