package site

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/keylock"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// Site is one site. Its methods may be called concurrently.
type Site struct {
	cfg    Config
	db     kv.DB
	groups *groups.Groups
	locks  keylock.Set // one change at a time per volume and per group

	mu      sync.Mutex
	volumes map[journal.VolumeID]*volume
	views   map[string]*openView
	forks   map[string]*fork
	// failedImages are those of replicas that found no room.
	failedImages map[journal.VolumeID]failedImage

	// unpinMu has a store that is being opened learn of every pin that was dropped before.
	unpinMu sync.Mutex
	lostMu  sync.Mutex // one change of bucketLostDevices at a time, on disk and in memory
	// deviceWaits is sent to when a device begins to wait; capacity 1.
	deviceWaits chan struct{}

	stopTending context.CancelFunc // of the forks, of replicas' points and of devices that wait; nil before load
	tending     sync.WaitGroup
	filling     context.Context // of what fills members from forks: it ends with the site
	stopFilling context.CancelFunc
}

// Open opens a site's directory, which is made if need be, its stores and its
// groups, finishes operations that were interrupted, and takes over the
// devices that the holder kept. A volume that does not open is shown as failed
// and keeps nobody else from being served. So is a device that cannot be taken over,
// which is tried again until it can be.
func Open(ctx context.Context, cfg Config) (*Site, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	err := cfg.FS.MkdirAll(path.Join(cfg.Root, volumesDir))
	if err == nil {
		err = errors.Join(cfg.FS.SyncDir(path.Dir(cfg.Root)), cfg.FS.SyncDir(cfg.Root))
	}
	if err == nil && cfg.JournalRoot != "" {
		// It is not made: what is made where its disk should be mounted is lost
		// once that is.
		_, err = cfg.FS.ReadDir(cfg.JournalRoot)
	}
	if err != nil {
		return nil, fmt.Errorf("open site %s: %w", cfg.Name, err)
	}
	db, err := cfg.FS.OpenDB(path.Join(cfg.Root, databaseFile))
	if err != nil {
		return nil, fmt.Errorf("open site %s: %w", cfg.Name, err)
	}
	db = kv.Watch(db, cfg.Fatal)
	s := &Site{
		cfg: cfg, db: db, volumes: map[journal.VolumeID]*volume{}, views: map[string]*openView{}, forks: map[string]*fork{},
		failedImages: map[journal.VolumeID]failedImage{}, deviceWaits: make(chan struct{}, 1),
	}
	s.filling, s.stopFilling = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("open site %s: %w", cfg.Name, errors.Join(err, s.Close()))
	}
	return s, nil
}

// Database is the site's own, for others who keep small state beside it.
func (s *Site) Database() kv.DB { return s.db }

// Groups is the site's groups: their points, rewinds and failovers.
func (s *Site) Groups() *groups.Groups { return s.groups }

func (s *Site) load(ctx context.Context) error {
	var err error
	s.groups, err = groups.Open(groups.Config{Site: s.cfg.Name, DB: s.db, Members: members{s}, Replicator: replicator{s},
		Locks: &s.locks, Clock: s.cfg.Clock, Log: s.cfg.Log, Forks: commits{s}})
	if err != nil {
		return err
	}
	records, err := loadRecords(s.db)
	if err != nil {
		return err
	}
	if err := s.recallFound(records); err != nil {
		return err
	}
	settings := map[string]group.Settings{}
	for _, st := range s.groups.States() {
		settings[st.Name] = st.Settings
	}
	for _, r := range records {
		s.volumes[r.ID] = &volume{record: r}
	}
	if err := s.loadLostDevices(); err != nil {
		return err
	}
	var opening sync.WaitGroup
	for _, r := range records {
		v := s.volumes[r.ID]
		opening.Go(func() {
			if err := s.openStore(v, settings[r.Group]); err != nil {
				s.cfg.Log.Error("volume does not open", "volume", r.ID, "error", err)
			}
			s.removeStrayStores(r)
		})
	}
	opening.Wait()
	if err := s.forgetMissing(records); err != nil {
		return err
	}
	if err := s.loadForks(ctx); err != nil {
		return err
	}
	// What a group is to be filled with may take long to copy: the others come first.
	filled := func(st group.State) bool { return st.Pending != nil && st.Pending.Fill != nil }
	states := s.groups.States()
	s.startGroups(ctx, slices.DeleteFunc(slices.Clone(states), filled))
	tending, stop := context.WithCancel(context.Background())
	s.stopTending = stop
	s.tending.Go(func() { s.tendForks(tending) })
	s.tending.Go(func() { s.keepPoints(tending) })
	s.tending.Go(func() { s.serveWaiting(tending) })
	s.tending.Go(func() { s.reopenFull(tending) })
	s.tending.Go(func() { s.tendGroups(tending) })
	waiting := slices.DeleteFunc(states, func(st group.State) bool { return !filled(st) })
	waits := func(id journal.VolumeID) bool {
		return slices.ContainsFunc(waiting, func(st group.State) bool { return slices.Contains(st.Members, id) })
	}
	err = s.resumeAttachments(ctx, func(id journal.VolumeID) bool { return !waits(id) })
	if err == nil && len(waiting) > 0 {
		s.startGroups(ctx, waiting)
		err = s.resumeAttachments(ctx, waits)
	}
	return err
}

// startGroups starts groups, and finishes what was interrupted in them. One that does
// not start keeps nobody else from it, and one that was started meanwhile, for a member that
// did not open before, goes on.
func (s *Site) startGroups(ctx context.Context, states []group.State) {
	for _, st := range states {
		if err := s.startGroup(ctx, st.Name); err != nil {
			s.cfg.Log.Error("group does not start", "group", st.Name, "error", err)
		}
	}
}

func (s *Site) startGroup(ctx context.Context, name string) error {
	unlock, err := s.locks.Lock(ctx, groups.Key(name))
	if err != nil {
		return err
	}
	defer unlock()
	return s.groups.Refresh(ctx, name)
}

// Close ends everything in order: groups, views, forks, frontends, stores. Devices
// stay with the holder, where I/O waits for the next start; but see forsakeDevice.
func (s *Site) Close() error {
	s.stopFilling()
	s.mu.Lock()
	volumes := make([]*volume, 0, len(s.volumes))
	for _, v := range s.volumes {
		volumes = append(volumes, v)
	}
	s.mu.Unlock()
	if s.stopTending != nil { // it may be starting a group
		s.stopTending()
		s.tending.Wait()
	}
	if s.groups != nil {
		s.groups.Close()
	}
	errs := []error{s.closeViews(), s.closeForks()}
	for _, v := range volumes {
		s.endWatch(v) // it has to do with the device
		errs = append(errs, s.releaseDevice(v), s.closeStore(v))
	}
	return errors.Join(append(errs, s.db.Close())...)
}
