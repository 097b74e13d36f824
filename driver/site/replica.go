package site

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Replicas is what replication asks of the site's replica stores.
func (s *Site) Replicas() replication.ReplicaStores { return replicas{s} }

// setRecord saves a volume's record if it is another than the present one.
func (s *Site) setRecord(id journal.VolumeID, r record) error {
	s.mu.Lock()
	v := s.volumes[id]
	same := v != nil && v.record == r
	s.mu.Unlock()
	if same {
		return nil
	}
	if err := s.saveRecord(r); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v == nil {
		v = &volume{}
		s.volumes[id] = v
	}
	v.record = r
	return nil
}

// replicas implements replication.ReplicaStores.
type replicas struct{ *Site }

// Replica implements replication.ReplicaStores.
func (s replicas) Replica(_ context.Context, name string, id journal.VolumeID) (replication.ReplicaStore, error) {
	st, err := s.groups.State(name)
	if err != nil {
		return nil, err
	}
	v, err := s.volumeOf(id)
	if err != nil || !slices.Contains(st.Members, id) {
		return nil, fmt.Errorf("volume %s of group %s: %w", id, name, replication.ErrUnknownMember)
	}
	if v.record.Store == "" {
		return nil, fmt.Errorf("volume %s: %w", id, replication.ErrNoReplica)
	}
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, err
	}
	return eng.Store(), nil
}

// Import implements replication.ReplicaStores.
func (s replicas) Import(_ context.Context, _ string, spec replication.ImageSpec) (replication.Import, error) {
	v, err := s.volumeOf(spec.Volume)
	if err != nil {
		return nil, err
	}
	generation := v.record.Generation + 1
	if err := s.makeVolumeDir(spec.Volume); err != nil {
		return nil, err
	}
	dir := path.Join(s.volumeDir(spec.Volume), storeDir(generation))
	if err := s.cfg.FS.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("discard unfinished import: %w", err)
	}
	im, err := journal.NewImport(s.storeConfig(dir),
		journal.Spec{Volume: spec.Volume, SizeBytes: spec.SizeBytes}, spec.At, spec.Timelines)
	if err != nil {
		return nil, err
	}
	return &replicaImport{Import: im, site: s.Site, volume: v, generation: generation, dir: dir}, nil
}

// replicaImport implements replication.Import: a store of the next generation
// that takes the place of the present one when its record is saved.
type replicaImport struct {
	*journal.Import
	site   *Site
	volume *volume
	// generation of the new store, and its directory
	generation int
	dir        string
}

// Commit implements replication.Import.
func (im *replicaImport) Commit(ctx context.Context) (replication.ReplicaStore, error) {
	s := im.site
	if err := im.Import.Commit(); err != nil {
		return nil, errors.Join(err, s.cfg.FS.RemoveAll(im.dir))
	}
	id := im.volume.record.ID
	unlock, err := s.locks.Lock(ctx, volumeKey(id), groups.Key(im.volume.record.Group))
	if err != nil {
		return nil, errors.Join(err, s.cfg.FS.RemoveAll(im.dir))
	}
	defer unlock()
	old := im.volume.record
	next := old
	next.Generation, next.Store = im.generation, storeDir(im.generation)
	if err := s.setRecord(id, next); err != nil {
		return nil, errors.Join(err, s.cfg.FS.RemoveAll(im.dir))
	}
	if err := s.closeStore(im.volume); err != nil {
		s.cfg.Log.Warn("closing a replaced store failed", "volume", id, "error", err)
	}
	st, err := s.groups.State(next.Group)
	if err != nil {
		return nil, err
	}
	if err := s.openStore(im.volume, st.Settings); err != nil {
		return nil, err
	}
	if old.Store != "" {
		if err := s.cfg.FS.RemoveAll(path.Join(s.volumeDir(old.ID), old.Store)); err != nil {
			s.cfg.Log.Warn("removing a replaced store failed; the next start does", "volume", old.ID, "error", err)
		}
	}
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, err
	}
	return eng.Store(), nil
}

// Abort implements replication.Import.
func (im *replicaImport) Abort() error {
	return errors.Join(im.Import.Abort(), im.site.cfg.FS.RemoveAll(im.dir))
}
