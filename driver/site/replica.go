package site

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Standings is what replication asks of the site's groups.
func (s *Site) Standings() replication.Groups { return standings{s} }

// Replicas is what replication asks of the site's replica stores.
func (s *Site) Replicas() replication.ReplicaStores { return replicas{s} }

// standings implements replication.Groups.
type standings struct{ *Site }

// Standing implements replication.Groups.
func (s standings) Standing(_ context.Context, name string) (replication.Standing, bool, error) {
	st, err := s.reg.Get(name)
	if errors.Is(err, group.ErrNotFound) {
		return replication.Standing{}, false, nil
	}
	return replication.Standing{Role: st.Role, Term: st.Term, Source: st.Source}, err == nil, err
}

// Follow implements replication.Groups.
func (s standings) Follow(ctx context.Context, peer string, a replication.Announcement) error {
	unlock, err := s.locks.Lock(ctx, groupKey(a.Group))
	if err != nil {
		return err
	}
	defer unlock()
	st, err := s.reg.Get(a.Group)
	if err != nil && !errors.Is(err, group.ErrNotFound) {
		return err
	}
	if st.Term > a.Term || st.Term == a.Term && st.Role == group.RolePrimary {
		return &replication.TermError{Kind: replication.ErrStaleTerm, Group: a.Group, Offered: a.Term, Held: st.Term, Owner: replication.Standing{Role: st.Role, Source: st.Source}.Owner(s.cfg.Name)}
	}
	if err := s.giveUpPrimary(ctx, st); err != nil {
		return err
	}
	if err := s.recordMembers(a); err != nil {
		return err
	}
	if !sameAs(st, peer, a) {
		if err := s.saveFollowing(peer, a); err != nil {
			return err
		}
	}
	r := s.runningOf(a.Group)
	if r == nil || r.coord != nil { // new here, or demoted
		if err := s.restartGroup(a.Group); err != nil {
			return err
		}
		r = s.runningOf(a.Group)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.announced = a
	return nil
}

func announcedMembers(a replication.Announcement) []journal.VolumeID {
	ids := make([]journal.VolumeID, len(a.Members))
	for i, m := range a.Members {
		ids[i] = m.Volume
	}
	return ids
}

// checkpointSlack is how far LastCheckpoint may stay behind between two saves
// of a replica's state; a promote goes on above what the stores hold anyway.
const checkpointSlack = 1000

// sameAs reports whether an announcement says nothing that must be saved.
func sameAs(st group.State, peer string, a replication.Announcement) bool {
	settings := a.Settings
	settings.ReplicateTo = st.Settings.ReplicateTo
	return st.Role == group.RoleReplica && st.Term == a.Term && st.Source == peer && st.Settings == settings.WithDefaults() &&
		slices.Equal(st.Members, announcedMembers(a)) && a.NewestCheckpoint < st.LastCheckpoint+checkpointSlack
}

func (s standings) saveFollowing(peer string, a replication.Announcement) error {
	st, err := s.reg.Update(a.Group, func(st *group.State) error {
		replicateTo := st.Settings.ReplicateTo
		st.Role, st.Term, st.Source = group.RoleReplica, a.Term, peer
		st.Settings = a.Settings.WithDefaults()
		st.Settings.ReplicateTo = replicateTo
		st.Members = announcedMembers(a)
		st.LastCheckpoint = max(st.LastCheckpoint, a.NewestCheckpoint)
		st.Rewind = nil
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range st.Members {
		if eng, err := s.engineOf(id); err == nil {
			s.applyRetention(eng.Store(), st.Settings)
		}
	}
	return nil
}

// giveUpPrimary stops writes and checkpoints before the role changes.
func (s *Site) giveUpPrimary(ctx context.Context, st group.State) error {
	if st.Role != group.RolePrimary {
		return nil
	}
	s.cfg.Log.Warn("site gives up a group to a newer primary", "group", st.Name, "term", st.Term)
	if err := s.stopWrites(ctx, st.Members); err != nil {
		return err
	}
	s.stopGroup(st.Name)
	return nil
}

// recordMembers makes the volumes of a followed group known. Those that left
// it are retired: their checkpoints still complete older recovery points.
func (s *Site) recordMembers(a replication.Announcement) error {
	s.mu.Lock()
	next := map[journal.VolumeID]record{}
	for id, v := range s.volumes {
		if v.record.Group == a.Group && !v.record.Retired {
			r := v.record
			r.Retired = true
			next[id] = r
		}
	}
	for _, m := range a.Members {
		r := record{ID: m.Volume}
		if v := s.volumes[m.Volume]; v != nil {
			r = v.record
		}
		r.Name, r.Group, r.SizeBytes, r.Retired = m.Name, a.Group, m.SizeBytes, false
		next[m.Volume] = r
	}
	s.mu.Unlock()
	for id, r := range next {
		if err := s.setRecord(id, r); err != nil {
			return err
		}
	}
	return nil
}

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

// Demote implements replication.Groups. It is called from the group's own
// sender, which ends right after; the group is restarted in its new role by
// the next announcement.
func (s standings) Demote(ctx context.Context, name string, held group.Term, owner string) error {
	unlock, err := s.locks.Lock(ctx, groupKey(name))
	if err != nil {
		return err
	}
	defer unlock()
	st, err := s.reg.Get(name)
	if err != nil || st.Term >= held {
		return err
	}
	if err := s.stopWrites(ctx, st.Members); err != nil {
		return err
	}
	_, err = s.reg.Update(name, func(st *group.State) error {
		st.Role, st.Term, st.Source, st.Rewind = group.RoleReplica, held, owner, nil
		return nil
	})
	if err != nil {
		return err
	}
	s.cfg.Log.Warn("site was demoted: a newer primary exists", "group", name, "term", held, "primary", owner)
	if r := s.runningOf(name); r != nil {
		r.stop() // joined by whoever stops or restarts the group
	}
	return nil
}

// replicas implements replication.ReplicaStores.
type replicas struct{ *Site }

// Replica implements replication.ReplicaStores.
func (s replicas) Replica(_ context.Context, name string, id journal.VolumeID) (replication.ReplicaStore, error) {
	st, err := s.reg.Get(name)
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
	unlock, err := s.locks.Lock(ctx, volumeKey(id), groupKey(im.volume.record.Group))
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
	st, err := s.reg.Get(next.Group)
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

// sources implements replication.Sources.
type sources struct{ *Site }

// Announcement implements replication.Sources.
func (s sources) Announcement(_ context.Context, name string) (replication.Announcement, error) {
	st, err := s.reg.Get(name)
	if err != nil {
		return replication.Announcement{}, err
	}
	a := replication.Announcement{Group: name, Term: st.Term, Settings: st.Settings}
	a.Settings.ReplicateTo = ""
	for _, id := range st.Members {
		eng, err := s.engineOf(id)
		if err != nil {
			return replication.Announcement{}, err
		}
		v, err := s.volumeOf(id)
		if err != nil {
			return replication.Announcement{}, err
		}
		a.Members = append(a.Members, replication.Member{Volume: id, Name: v.record.Name, SizeBytes: eng.SizeBytes()})
	}
	if r := s.runningOf(name); r != nil && r.coord != nil {
		a.NewestCheckpoint, a.ValidUntil = r.coord.Last(), r.coord.QuietUntil()
	}
	return a, nil
}

// Source implements replication.Sources.
func (s sources) Source(_ context.Context, _ string, id journal.VolumeID) (replication.SourceStore, error) {
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, err
	}
	return replication.OpenSource(eng.Store()), nil
}
