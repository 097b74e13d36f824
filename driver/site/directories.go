package site

import (
	"errors"
	"fmt"
	"path"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// A volume has a directory below Root, and one below JournalRoot if that is
// there. Its stores are in the first, each in a directory named by its
// generation, and their journals in the second, in directories of the same
// names, unless they are with their stores. Sites can share a JournalRoot: they
// may have stores of the same volume.

func (s *Site) volumeDir(id journal.VolumeID) string {
	return path.Join(s.cfg.Root, volumesDir, id.String())
}

// journalDir is where a volume's journals of their own are; empty: nowhere.
func (s *Site) journalDir(id journal.VolumeID) string {
	if s.cfg.JournalRoot == "" {
		return ""
	}
	return path.Join(s.cfg.JournalRoot, s.cfg.Name, id.String())
}

// storeDir names a store directory by its generation.
func storeDir(generation int) string { return fmt.Sprintf("store-%d", generation) }

// storeConfig is how a volume's store is made and opened.
func (s *Site) storeConfig(id journal.VolumeID, store string, ownJournal bool) journal.Config {
	c := journal.Config{FS: s.cfg.FS, Clock: s.cfg.Clock, Log: s.cfg.Log, SegmentBytes: s.cfg.SegmentBytes, IndexMemory: s.cfg.IndexMemory, ScrubEvery: s.cfg.ScrubEvery,
		CacheBytes: s.cfg.CacheBytes,
		Dir:        path.Join(s.volumeDir(id), store)}
	if dir := s.journalDir(id); ownJournal && dir != "" {
		c.JournalDir = path.Join(dir, store)
	}
	return c
}

// dirsOf are the directories that a volume has.
func (s *Site) dirsOf(id journal.VolumeID) []string {
	dirs := []string{s.volumeDir(id)}
	if dir := s.journalDir(id); dir != "" {
		dirs = append(dirs, dir)
	}
	return dirs
}

// makeVolumeDir makes the directories for a volume's stores and journals; durable
// on return.
func (s *Site) makeVolumeDir(id journal.VolumeID) error {
	for _, dir := range s.dirsOf(id) {
		err := s.cfg.FS.MkdirAll(dir)
		if err == nil {
			err = errors.Join(s.cfg.FS.SyncDir(path.Dir(dir)), s.cfg.FS.SyncDir(path.Dir(path.Dir(dir))))
		}
		if err != nil {
			return fmt.Errorf("make directory of volume %s: %w", id, err)
		}
	}
	return nil
}

// removeStore removes a store that is not open, or what there is of one, and its
// journal.
func (s *Site) removeStore(id journal.VolumeID, store string) error {
	err := s.cfg.FS.RemoveAll(path.Join(s.volumeDir(id), store))
	if dir := s.journalDir(id); err == nil && dir != "" {
		err = journal.RemoveJournal(s.cfg.FS, path.Join(dir, store), id)
	}
	if err != nil {
		return fmt.Errorf("remove %s of volume %s: %w", store, id, err)
	}
	return nil
}

// removeStrayStores removes stores and journals that no record names: what an
// interrupted import or swap left behind. They stay as long as the store that the record
// names, or named, is not there: one of them may be what is left of the volume.
func (s *Site) removeStrayStores(r record) {
	if r.Store == "" && r.Generation > 0 || r.Store != "" && !journal.IsStore(s.cfg.FS, path.Join(s.volumeDir(r.ID), r.Store)) {
		return
	}
	s.removeStrays(r, s.volumeDir(r.ID), r.Store)
	if dir := s.journalDir(r.ID); dir != "" && r.OwnJournal {
		s.removeStrays(r, dir, r.Store)
	} else if dir != "" {
		s.removeStrays(r, dir, "")
	}
}

// removeStrays removes of every store in a directory but one what is removed
// without harm to that one.
func (s *Site) removeStrays(r record, dir, keep string) {
	names, err := s.cfg.FS.ReadDir(dir)
	if err != nil {
		return // a replica that holds nothing yet
	}
	for _, name := range names {
		if name == keep {
			continue
		}
		if name == r.Store {
			err = journal.RemoveJournal(s.cfg.FS, path.Join(dir, name), r.ID)
		} else {
			err = s.removeStore(r.ID, name)
		}
		if err != nil {
			s.cfg.Log.Warn("removing a stray store failed", "volume", r.ID, "store", name, "error", err)
		}
	}
}

// checkReach returns journal.ErrNoJournal if a part of a volume is where this site
// does not look.
func (s *Site) checkReach(r record) error {
	if r.OwnJournal && s.cfg.JournalRoot == "" {
		return fmt.Errorf("volume %s: start the site with the journal root that it had: %w", r.ID, journal.ErrNoJournal)
	}
	return nil
}

// removeVolumeDir removes everything that a volume has; durable on return, because its
// record goes next, and what came back after a power loss would be nobody's.
func (s *Site) removeVolumeDir(id journal.VolumeID) error {
	for _, dir := range s.dirsOf(id) {
		if err := s.cfg.FS.RemoveAll(dir); err != nil {
			return err
		}
		if err := s.cfg.FS.SyncDir(path.Dir(dir)); err != nil && !errors.Is(err, vfs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// checkNoStore returns journal.ErrExists where a store lies in the place of a volume that the site
// has no record of, as after its database was lost: that is not the new volume of its id.
func (s *Site) checkNoStore(id journal.VolumeID) error {
	dir := s.volumeDir(id)
	names, err := s.cfg.FS.ReadDir(dir)
	if errors.Is(err, vfs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		store := path.Join(dir, name)
		is, err := journal.FindStore(s.cfg.FS, store)
		if err != nil {
			return err
		}
		if is {
			return fmt.Errorf("%s holds a store that this site has no record of; move it out of the site's directory, from where `lockstep volume adopt` makes a volume of it, or remove it: %w", store, journal.ErrExists)
		}
	}
	return nil
}
