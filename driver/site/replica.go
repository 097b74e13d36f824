package site

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/internal/kv"
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
	if s.recordOf(v).Store == "" {
		return nil, fmt.Errorf("volume %s: %w", id, replication.ErrNoReplica)
	}
	return s.replicaStore(id)
}

// replicaStore is a volume's store as a stream feeds it.
func (s *Site) replicaStore(id journal.VolumeID) (replication.ReplicaStore, error) {
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, err
	}
	return replicaStore{eng.Store(), s}, nil
}

// replicaStore implements replication.ReplicaStore. A replica is production too: where
// it finds no room forks go, as for a write.
type replicaStore struct {
	*journal.Store
	site *Site
}

// Reclaim implements replication.ReplicaStore.
func (r replicaStore) Reclaim(ctx context.Context) (freedBytes int64, err error) {
	r.site.yieldForks(ctx)
	return r.Store.Reclaim(ctx)
}

// Import implements replication.ReplicaStores.
func (s replicas) Import(_ context.Context, _ string, spec replication.ImageSpec) (replication.Import, error) {
	v, err := s.volumeOf(spec.Volume)
	if err != nil {
		return nil, err
	}
	generation := s.recordOf(v).Generation + 1
	free, err := s.imageWorthwhile(spec.Volume)
	// Before the image is sent in vain, and before what a record names that may be
	// durable is removed as the rest of an earlier one.
	if err := errors.Join(err, s.replaceable(spec.Volume), kv.Settled(s.db)); err != nil {
		return nil, err
	}
	if err := s.makeVolumeDir(spec.Volume); err != nil {
		return nil, err
	}
	if err := s.removeStore(spec.Volume, storeDir(generation)); err != nil {
		return nil, fmt.Errorf("discard unfinished import: %w", err)
	}
	own := s.cfg.JournalRoot != ""
	im, err := journal.NewImport(s.storeConfig(spec.Volume, storeDir(generation), own),
		journal.Spec{Volume: spec.Volume, SizeBytes: spec.SizeBytes}, spec.At, spec.Timelines)
	if err != nil {
		return nil, err
	}
	return &replicaImport{Import: im, site: s.Site, volume: v, generation: generation, ownJournal: own, free: free}, nil
}

// replicaImport implements replication.Import: a store of the next generation
// that takes the place of the present one when its record is saved.
type replicaImport struct {
	*journal.Import
	site       *Site
	volume     *volume
	generation int   // of the new store
	ownJournal bool  // it has one
	filled     bool  // it is a store
	free       int64 // bytes, before it began
}

// remove removes the new store again.
func (im *replicaImport) remove() error {
	return im.site.removeStore(im.volume.record.ID, storeDir(im.generation))
}

// replaceable tells why a volume's store cannot be replaced by an image now.
// What is attached is no reason: the device stays, and I/O on it waits.
func (s *Site) replaceable(id journal.VolumeID) error {
	if err := s.checkUnviewed(id); err != nil {
		return fmt.Errorf("%w: %w", replication.ErrInUse, err)
	}
	return nil
}

// commit puts the new store in the old one's place. A device that is attached, because this
// site was demoted and nobody has detached it, stays: it shows the new store.
func (im *replicaImport) commit(ctx context.Context) (replication.ReplicaStore, error) {
	s, id := im.site, im.volume.record.ID
	if !im.filled {
		if err := im.Import.Commit(); err != nil {
			return nil, errors.Join(err, im.remove())
		}
		im.filled = true
	}
	unlock, err := s.locks.Lock(ctx, volumeKey(id), groups.Key(s.recordOf(im.volume).Group))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", replication.ErrInUse, err)
	}
	defer unlock()
	if err := s.replaceable(id); err != nil {
		return nil, err
	}
	old := s.recordOf(im.volume)
	next := old
	next.Generation, next.Store, next.OwnJournal = im.generation, storeDir(im.generation), im.ownJournal
	st, err := s.groups.State(next.Group)
	if err != nil {
		return nil, errors.Join(err, im.remove())
	}
	config, attached, err := s.replaceStore(ctx, im.volume, st.Settings, &next)
	defer s.setKept(im.volume, false)
	if attached {
		if err := s.resumeDevice(ctx, im.volume, config); err != nil {
			s.cfg.Log.Error("device is not served: detach it, or reopen its volume", "volume", id, "error", err)
			s.noteUnserved(im.volume, config, err)
		}
	}
	switch {
	case errors.Is(err, groups.ErrInUse):
		return nil, fmt.Errorf("%w: %w", replication.ErrInUse, err)
	case err != nil:
		// Which store the record names may be unknown: the next import, or the
		// next start, removes the other one.
		return nil, err
	}
	if old.Store != "" {
		if err := s.removeStore(old.ID, old.Store); err != nil {
			s.cfg.Log.Warn("removing a replaced store failed; the next start does", "volume", old.ID, "error", err)
		}
	}
	return s.replicaStore(id)
}

// Abort implements replication.Import.
func (im *replicaImport) Abort() error {
	return errors.Join(im.Import.Abort(), im.remove())
}
