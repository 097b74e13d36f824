package site

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// Adoption is a store that is to be a volume of the site.
type Adoption struct {
	Dir      string // absolute, on the file system of the site's root
	Name     string
	Group    string
	Settings group.Settings // of the group, if it does not exist yet
}

// StoreToAdopt looks at a store that nobody has open, without changing it, and
// returns its volume and size. One whose adoption was interrupted is known by the
// directory that it was in. journal.ErrNotStore, journal.ErrInUse,
// journal.ErrCorrupt.
func (s *Site) StoreToAdopt(dir string) (journal.VolumeID, int64, error) {
	if v, begun := s.beingAdopted(dir); begun {
		r := s.recordOf(v)
		return r.ID, r.SizeBytes, nil
	}
	if !path.IsAbs(dir) || strings.HasPrefix(path.Clean(dir)+"/", path.Clean(s.cfg.Root)+"/") {
		return journal.VolumeID{}, 0, fmt.Errorf("adopt store %s: want an absolute path outside of the site's own directory %s: %w", dir, s.cfg.Root, ErrBadStore)
	}
	r, err := journal.OpenReadOnly(journal.Config{FS: s.cfg.FS, Dir: dir})
	if err != nil {
		return journal.VolumeID{}, 0, fmt.Errorf("adopt: %w", err)
	}
	id, size, damage := r.Volume(), r.SizeBytes(), r.Damage()
	if err := r.Close(); err != nil {
		return id, 0, err
	}
	if len(damage) > 0 {
		return id, 0, fmt.Errorf("adopt store %s: %s at offset %d of %s: %w", dir, damage[0].What, damage[0].Offset, damage[0].File, journal.ErrCorrupt)
	}
	return id, size, nil
}

// beingAdopted finds the volume that a store in a directory is becoming.
func (s *Site) beingAdopted(dir string) (*volume, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.volumes {
		if v.record.From != "" && v.record.From == path.Clean(dir) {
			return v, true
		}
	}
	return nil, false
}

// AdoptStore makes the store in a directory a volume of the site and a member of
// its group: the directory moves to where the site keeps its stores. Repeated with
// the same directory until EndAdoption, also after a crash in the midst of an
// earlier call, it goes on. Errors as StoreToAdopt; journal.ErrExists if the
// site has the volume already; group.ErrRole.
func (s *Site) AdoptStore(ctx context.Context, a Adoption) (journal.VolumeID, error) {
	id, size, err := s.StoreToAdopt(a.Dir)
	if err != nil {
		return id, err
	}
	unlock, err := s.locks.Lock(ctx, volumeKey(id), groups.Key(a.Group))
	if err != nil {
		return id, err
	}
	defer unlock()
	settings, err := s.settingsToJoin(a)
	if err == nil {
		err = s.adopt(ctx, id, size, a, settings)
	}
	if err != nil {
		return id, fmt.Errorf("adopt store %s: %w", a.Dir, err)
	}
	return id, nil
}

// settingsToJoin returns those of the group as it is, or is to be made.
func (s *Site) settingsToJoin(a Adoption) (group.Settings, error) {
	st, err := s.groups.State(a.Group)
	switch {
	case errors.Is(err, group.ErrNotFound):
		settings := a.Settings.WithDefaults()
		return settings, settings.Validate()
	case err != nil:
		return group.Settings{}, err
	case st.Role != group.RolePrimary:
		return group.Settings{}, fmt.Errorf("group %s: site %s is its %s: %w", a.Group, s.cfg.Name, st.Role, group.ErrRole)
	}
	return st.Settings, nil
}

func (s *Site) adopt(ctx context.Context, id journal.VolumeID, size int64, a Adoption, settings group.Settings) error {
	v, begun := s.beingAdopted(a.Dir)
	if !begun {
		if _, err := s.volumeOf(id); err == nil {
			return fmt.Errorf("the site has volume %s: %w", id, journal.ErrExists)
		}
		// The record comes before the move, so that no store is where nobody
		// knows of it.
		r := record{ID: id, Name: a.Name, Group: a.Group, SizeBytes: size, Store: storeDir(1), Generation: 1, From: path.Clean(a.Dir)}
		if err := s.setRecord(id, r); err != nil {
			return err
		}
		var err error
		if v, err = s.volumeOf(id); err != nil {
			return err
		}
	}
	if r := s.recordOf(v); r.Name != a.Name || r.Group != a.Group {
		return fmt.Errorf("its adoption as volume %q of group %q was begun: repeat that: %w", r.Name, r.Group, journal.ErrExists)
	}
	if err := s.moveStore(id, path.Clean(a.Dir)); err != nil {
		return err
	}
	if err := s.openStore(v, settings); err != nil {
		return err
	}
	return s.groups.Join(ctx, a.Group, settings, id)
}

// moveStore gives a store the place that its volume's record names, unless it is
// there; durable on return. If that cannot be, the record goes again.
func (s *Site) moveStore(id journal.VolumeID, from string) error {
	to := path.Join(s.volumeDir(id), storeDir(1))
	if journal.IsStore(s.cfg.FS, to) { // who moved it may not have lived to sync that
		return s.cfg.FS.SyncDir(path.Dir(to))
	}
	err := s.checkStoreOf(id, from)
	if err == nil {
		err = s.makeVolumeDir(id)
	}
	if err == nil {
		err = s.cfg.FS.Rename(from, to)
	}
	if err != nil {
		return errors.Join(err, s.forgetUnmoved(id))
	}
	return errors.Join(s.cfg.FS.SyncDir(path.Dir(to)), s.cfg.FS.SyncDir(path.Dir(from)))
}

// checkStoreOf makes sure that the store in a directory is a volume's: after an adoption that was
// cut off another one may have come to be there. ErrBadStore.
func (s *Site) checkStoreOf(id journal.VolumeID, dir string) error {
	r, err := journal.OpenReadOnly(journal.Config{FS: s.cfg.FS, Dir: dir})
	if err != nil {
		return err
	}
	found := r.Volume()
	if err := r.Close(); err != nil {
		return err
	}
	if found != id {
		return fmt.Errorf("it is the store of volume %s, and its adoption as that of volume %s, which was there before, is given up: adopt it again: %w", found, id, ErrBadStore)
	}
	return nil
}

// forgetUnmoved takes back what was noted of a store that stayed where it was.
func (s *Site) forgetUnmoved(id journal.VolumeID) error {
	for _, dir := range s.dirsOf(id) {
		if err := s.cfg.FS.Remove(dir); err != nil && !errors.Is(err, vfs.ErrNotExist) {
			return err
		}
	}
	if err := s.deleteRecord(id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.volumes, id)
	return nil
}

// EndAdoption notes that all is done which AdoptStore was called for.
func (s *Site) EndAdoption(ctx context.Context, id journal.VolumeID) error {
	unlock, err := s.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	v, err := s.volumeOf(id)
	if err != nil {
		return err
	}
	r := s.recordOf(v)
	r.From = ""
	return s.setRecord(id, r)
}
