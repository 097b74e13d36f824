package site

import (
	"maps"
	"slices"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/journal"
)

// Volume describes a volume of the site at one moment.
type Volume struct {
	ID        journal.VolumeID
	Name      string
	Group     string
	SizeBytes int64
	Device    string // /dev/loopN while attached
	// Transport is how the device's requests come, and Fallback why that is not
	// what was asked for; empty and nil while it is not attached.
	Transport fuse.Transport
	Fallback  error
	// DeviceErr is why the volume is attached and its device not served: I/O on it waits,
	// or fails (journal.ErrTailLost). Or why there can be none: groups.ErrAbsent. nil while
	// that is not so.
	DeviceErr error
	StoreDir  string // empty while a replica holds nothing
	Retired   bool
	Open      bool  // the fields below are set
	Err       error // why the volume is not open, or what stopped it
	Tip       journal.Position
	Durable   journal.Position
	Horizon   journal.Position
	Stats     journal.Stats
	Scrub     journal.ScrubStats
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
	out := Volume{ID: r.ID, Name: r.Name, Group: r.Group, SizeBytes: r.SizeBytes, Retired: r.Retired, Err: failed, DeviceErr: v.deviceErr()}
	if a != nil {
		out.Device, out.Transport, out.Fallback = a.device, a.session.Init.Transport(), a.session.Fallback
	}
	s.mu.Unlock()
	if s.isAbsent(id) {
		out.DeviceErr = absentErr(id)
	}
	if r.Store != "" {
		out.StoreDir = s.volumeDir(id) + "/" + r.Store
	}
	if eng == nil {
		return out, nil
	}
	store := eng.Store()
	out.Open, out.SizeBytes = true, store.SizeBytes()
	out.Tip, out.Durable, out.Horizon, out.Stats = store.Tip(), store.Durable(), store.Horizon(), store.Stats()
	out.Scrub = store.ScrubStats()
	if out.Err == nil {
		out.Err = store.Err()
	}
	return out, nil
}

// Timelines returns the timelines of a volume and the active one.
func (s *Site) Timelines(id journal.VolumeID) (lines []journal.Timeline, active journal.TimelineID, err error) {
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, 0, err
	}
	return eng.Store().Timelines(), eng.Store().Tip().Timeline, nil
}

// TimelineUses returns the timelines of a volume with what each takes and what keeps it,
// and the horizon.
func (s *Site) TimelineUses(id journal.VolumeID) ([]journal.TimelineUse, journal.Position, error) {
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, journal.Position{}, err
	}
	return eng.Store().TimelineUses(), eng.Store().Horizon(), nil
}

// Name is the site's name.
func (s *Site) Name() string { return s.cfg.Name }
