package site

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/keylock"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// Site is one site. Its methods may be called concurrently.
type Site struct {
	cfg   Config
	db    kv.DB
	reg   *group.Registry
	locks keylock.Set // one change at a time per volume and per group
	fence Fencer

	mu      sync.Mutex
	volumes map[journal.VolumeID]*volume
	groups  map[string]*running
	views   map[string]*openView
	closed  bool
}

// Fencer stops what replication appends to a group; *replication.Server is
// one. See its Fence.
type Fencer interface {
	Fence(ctx context.Context, group string) (release func(), err error)
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
	if err != nil {
		return nil, fmt.Errorf("open site %s: %w", cfg.Name, err)
	}
	db, err := cfg.FS.OpenDB(path.Join(cfg.Root, databaseFile))
	if err != nil {
		return nil, fmt.Errorf("open site %s: %w", cfg.Name, err)
	}
	s := &Site{cfg: cfg, db: db, volumes: map[journal.VolumeID]*volume{}, groups: map[string]*running{}, views: map[string]*openView{}}
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("open site %s: %w", cfg.Name, errors.Join(err, s.Close()))
	}
	return s, nil
}

// Database is the site's own, for others who keep small state beside it.
func (s *Site) Database() kv.DB { return s.db }

// SetFencer says how to stop incoming replication. Call it before the first
// Failover.
func (s *Site) SetFencer(f Fencer) { s.fence = f }

func (s *Site) load(ctx context.Context) error {
	var err error
	if s.reg, err = group.OpenRegistry(s.db); err != nil {
		return err
	}
	records, err := loadRecords(s.db)
	if err != nil {
		return err
	}
	settings := map[string]group.Settings{}
	for _, st := range s.reg.List() {
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
	for _, st := range s.reg.List() {
		if err := s.startGroup(st.Name); err != nil {
			s.cfg.Log.Error("group does not start", "group", st.Name, "error", err)
		}
	}
	return s.resumeAttachments(ctx)
}

// removeStrayStores removes store directories that no record names: what an
// interrupted import or swap left behind.
func (s *Site) removeStrayStores(r record) {
	dir := s.volumeDir(r.ID)
	names, err := s.cfg.FS.ReadDir(dir)
	if err != nil {
		return // a replica that holds nothing yet
	}
	for _, name := range names {
		if name != r.Store {
			if err := s.cfg.FS.RemoveAll(path.Join(dir, name)); err != nil {
				s.cfg.Log.Warn("removing a stray store failed", "volume", r.ID, "store", name, "error", err)
			}
		}
	}
}

// Close ends everything in order: groups, views, frontends, stores. Devices
// stay with the holder, where I/O waits for the next start.
func (s *Site) Close() error {
	s.mu.Lock()
	s.closed = true
	var names []string
	for name := range s.groups {
		names = append(names, name)
	}
	volumes := make([]*volume, 0, len(s.volumes))
	for _, v := range s.volumes {
		volumes = append(volumes, v)
	}
	s.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		s.stopGroup(name)
	}
	errs := []error{s.closeViews()}
	for _, v := range volumes {
		errs = append(errs, s.releaseDevice(v), s.closeStore(v))
	}
	return errors.Join(append(errs, s.db.Close())...)
}
