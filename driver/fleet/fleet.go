package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/keylock"
	"github.com/lockstep-csi/lockstep/journal"
)

// Fleet is the volumes and engines of one site. Its methods may be called
// concurrently.
type Fleet struct {
	cfg    Config
	groups *groups.Groups
	locks  keylock.Set // one change at a time per volume and per group
	holder Holder
	number uint64 // of this controller, see claimNumber
	// succeeded is closed once an engine has told that there is a newer controller.
	succeeded     chan struct{}
	succeededOnce sync.Once
	successor     uint64 // its number; set before succeeded is closed; 0: not known

	ctx    context.Context // of everything that outlives a call; ends with Close
	stop   context.CancelFunc
	joined sync.WaitGroup

	mu      sync.Mutex
	volumes map[journal.VolumeID]*volume // guarded by mu
	views   map[string]*openView         // guarded by mu
	// promotes counts those under way, by group.
	promotes map[string]int // guarded by mu
	upgrades upgrades       // guarded by mu
}

// Open reads what the site knows and begins to look after its volumes. Engines
// that run go on undisturbed, and are found.
func Open(cfg Config) (*Fleet, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	f := &Fleet{cfg: cfg, volumes: map[journal.VolumeID]*volume{}, views: map[string]*openView{}, promotes: map[string]int{}, succeeded: make(chan struct{})}
	f.ctx, f.stop = context.WithCancel(context.Background())
	var err error
	if f.number, err = f.claimNumber(); err != nil {
		return nil, err
	}
	f.groups, err = groups.Open(groups.Config{Site: cfg.Site, DB: cfg.DB, Members: members{f}, Replicator: replicator{f},
		Locks: &f.locks, Clock: cfg.Clock, Log: cfg.Log, StopsUsers: true})
	if err != nil {
		return nil, err
	}
	f.groups.SetFencer(fencer{f})
	records, err := loadRecords(cfg.DB)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		// A process of an earlier life may run, wanted or not.
		f.volumes[r.ID] = newVolume(r, true)
	}
	// Before there is anybody else who would start them too, as for an engine that answers:
	// what one of the two has begun, a coordinator perhaps, nobody would end.
	for _, st := range f.groups.States() {
		if st.Role == group.RoleReplica {
			if err := f.groups.Start(f.ctx, st.Name); err != nil {
				cfg.Log.Error("group does not start", "group", st.Name, "error", err)
			}
		}
	}
	for _, v := range f.volumes {
		f.joined.Go(func() { f.tend(v) })
		f.follow(v)
	}
	f.joined.Go(func() { f.groups.TellEnds(f.ctx) })
	f.joined.Go(f.keepUpgraded)
	f.joined.Go(f.keepPoints)
	return f, nil
}

// Groups is the site's groups: their points, rewinds and failovers. Wake the
// group first.
func (f *Fleet) Groups() *groups.Groups { return f.groups }

// Holder keeps another site's announcements of a group from being judged;
// *replication.AnnounceServer is one. See its Hold.
type Holder interface {
	Hold(ctx context.Context, group string) (release func(), err error)
}

// SetHolder says how to hold announcements. Call it before the first Failover.
func (f *Fleet) SetHolder(h Holder) { f.holder = h }

// Close stops looking after the volumes. Their engines go on.
func (f *Fleet) Close() error {
	f.stop()
	f.joined.Wait()
	f.groups.Close()
	f.raiseNumber()
	return nil
}

func volumeKey(id journal.VolumeID) string { return "volume/" + id.String() }

// volumeOf returns a volume; ErrNotFound.
func (f *Fleet) volumeOf(id journal.VolumeID) (*volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.volumes[id]
	if !ok {
		return nil, fmt.Errorf("volume %s: %w", id, ErrNotFound)
	}
	return v, nil
}

// recordOf returns a volume's record.
func (f *Fleet) recordOf(v *volume) record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return v.record
}

// add makes a volume known, durably, and looks after it from now on.
func (f *Fleet) add(r record) (*volume, error) {
	if f.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if err := f.saveRecord(r); err != nil {
		return nil, err
	}
	v := newVolume(r, false)
	f.mu.Lock()
	f.volumes[r.ID] = v
	f.mu.Unlock()
	f.joined.Go(func() { f.tend(v) })
	return v, nil
}

// inGroup returns the volumes of a group by id; where the past is wanted, also
// those that have left it, retired or for another group. One that is being made is
// none yet: what is done to the group does not wait for it, nor for its copy.
func (f *Fleet) inGroup(name string, past bool) []*volume {
	return slices.DeleteFunc(f.ofGroup(name, past), f.isBeingMade)
}

// ofGroup is inGroup with the volumes that are being made.
func (f *Fleet) ofGroup(name string, past bool) []*volume {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*volume
	for _, id := range slices.SortedFunc(maps.Keys(f.volumes), compareIDs) {
		v := f.volumes[id]
		is := v.record.Group == name && !v.record.Retired
		was := v.record.Group == name || slices.Contains(v.record.Former, name)
		if is || past && was {
			all = append(all, v)
		}
	}
	return all
}

func compareIDs(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) }

// pokeGroup has the volumes of a group looked at again.
func (f *Fleet) pokeGroup(name string) {
	for _, v := range f.ofGroup(name, true) {
		v.poke()
	}
}

// isClosed reports whether an error only says that the fleet is closing.
func (f *Fleet) isClosed(err error) bool {
	return f.ctx.Err() != nil && errors.Is(err, context.Canceled)
}
