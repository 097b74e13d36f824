package site

import (
	"context"
	"errors"
	"fmt"
	"path"
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

	stopTending context.CancelFunc // of the forks; nil before load
	tending     sync.WaitGroup
}

// Open opens a site's directory, which is made if need be, its stores and its
// groups, finishes operations that were interrupted, and takes over the
// devices that the holder kept. A volume that does not open is shown as failed
// and keeps nobody else from being served.
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
	s := &Site{cfg: cfg, db: db, volumes: map[journal.VolumeID]*volume{}, views: map[string]*openView{}, forks: map[string]*fork{}}
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
		Locks: &s.locks, Clock: s.cfg.Clock, Log: s.cfg.Log})
	if err != nil {
		return err
	}
	records, err := loadRecords(s.db)
	if err != nil {
		return err
	}
	settings := map[string]group.Settings{}
	for _, st := range s.groups.States() {
		settings[st.Name] = st.Settings
	}
	var opening sync.WaitGroup
	for _, r := range records {
		v := &volume{record: r}
		s.volumes[r.ID] = v
		opening.Go(func() {
			if err := s.openStore(v, settings[r.Group]); err != nil {
				s.cfg.Log.Error("volume does not open", "volume", r.ID, "error", err)
			}
			s.removeStrayStores(r)
		})
	}
	opening.Wait()
	if err := s.loadForks(ctx); err != nil {
		return err
	}
	for _, st := range s.groups.States() {
		if err := s.groups.Start(ctx, st.Name); err != nil {
			s.cfg.Log.Error("group does not start", "group", st.Name, "error", err)
		}
	}
	tending, stop := context.WithCancel(context.Background())
	s.stopTending = stop
	s.tending.Go(func() { s.tendForks(tending) })
	return s.resumeAttachments(ctx)
}

// Close ends everything in order: groups, views, forks, frontends, stores. Devices
// stay with the holder, where I/O waits for the next start.
func (s *Site) Close() error {
	s.mu.Lock()
	volumes := make([]*volume, 0, len(s.volumes))
	for _, v := range s.volumes {
		volumes = append(volumes, v)
	}
	s.mu.Unlock()
	if s.groups != nil {
		s.groups.Close()
	}
	if s.stopTending != nil {
		s.stopTending()
		s.tending.Wait()
	}
	errs := []error{s.closeViews(), s.closeForks()}
	for _, v := range volumes {
		errs = append(errs, s.releaseDevice(v), s.closeStore(v))
	}
	return errors.Join(append(errs, s.db.Close())...)
}
