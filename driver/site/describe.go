package site

import (
	"maps"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Volume describes a volume of the site at one moment.
type Volume struct {
	ID        journal.VolumeID
	Name      string
	Group     string
	SizeBytes int64
	Device    string // /dev/loopN while attached
	StoreDir  string // empty while a replica holds nothing
	Retired   bool
	Open      bool  // the fields below are set
	Err       error // why the volume is not open, or what stopped it
	Tip       journal.Position
	Durable   journal.Position
	Horizon   journal.Position
	Stats     journal.Stats
}

// Volumes describes all volumes, by id.
func (s *Site) Volumes() []Volume {
	s.mu.Lock()
	ids := slices.SortedFunc(maps.Keys(s.volumes), func(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) })
	s.mu.Unlock()
	var all []Volume
	for _, id := range ids {
		if v, err := s.Volume(id); err == nil {
			all = append(all, v)
		}
	}
	return all
}

// Volume describes one volume; ErrNotFound.
func (s *Site) Volume(id journal.VolumeID) (Volume, error) {
	v, err := s.volumeOf(id)
	if err != nil {
		return Volume{}, err
	}
	s.mu.Lock()
	r, eng, failed, a := v.record, v.eng, v.failed, v.attachment
	out := Volume{ID: r.ID, Name: r.Name, Group: r.Group, SizeBytes: r.SizeBytes, Retired: r.Retired, Err: failed}
	if a != nil {
		out.Device = a.device
	}
	s.mu.Unlock()
	if r.Store != "" {
		out.StoreDir = s.volumeDir(id) + "/" + r.Store
	}
	if eng == nil {
		return out, nil
	}
	store := eng.Store()
	out.Open, out.SizeBytes = true, store.SizeBytes()
	out.Tip, out.Durable, out.Horizon, out.Stats = store.Tip(), store.Durable(), store.Horizon(), store.Stats()
	if out.Err == nil {
		out.Err = store.Err()
	}
	return out, nil
}

// Group describes a group of the site at one moment.
type Group struct {
	State  group.State
	Points []group.Point // oldest first
	// Stats of the checkpoints since the group was started; zero on a replica.
	Stats group.CoordinatorStats
	// Sending is nil where nothing is replicated from here.
	Sending *replication.Metrics
}

// AchievedWindow is how far back the group can be opened at a moment.
func (g *Group) AchievedWindow(now time.Time) time.Duration {
	if len(g.Points) == 0 {
		return 0
	}
	return now.Sub(g.Points[0].Time)
}

// Group describes one group; group.ErrNotFound.
func (s *Site) Group(name string) (Group, error) {
	st, err := s.reg.Get(name)
	if err != nil {
		return Group{}, err
	}
	g := Group{State: st, Points: s.pointsOf(st)}
	if r := s.runningOf(name); r != nil {
		if r.coord != nil {
			g.Stats = r.coord.Stats()
		}
		if r.sender != nil {
			m := r.sender.Metrics()
			g.Sending = &m
		}
	}
	return g, nil
}

// Groups names all groups, ascending.
func (s *Site) Groups() []string {
	var names []string
	for _, st := range s.reg.List() {
		names = append(names, st.Name)
	}
	return names
}

// Timelines returns the timelines of a volume and the active one.
func (s *Site) Timelines(id journal.VolumeID) (lines []journal.Timeline, active journal.TimelineID, err error) {
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, 0, err
	}
	return eng.Store().Timelines(), eng.Store().Tip().Timeline, nil
}

// Name is the site's name.
func (s *Site) Name() string { return s.cfg.Name }
