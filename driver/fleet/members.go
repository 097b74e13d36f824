package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// members implements groups.Members with the engines of the site.
type members struct{ *Fleet }

var _ groups.Members = members{}

// Member implements groups.Members. A volume whose engine may run, and does not
// answer, is a member all the same: its calls fail, so that nobody takes its
// writes for stopped.
func (f members) Member(id journal.VolumeID) (groups.Member, error) {
	v, err := f.volumeOf(id)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !v.running {
		return nil, fmt.Errorf("%s: %w: %w", v.record.title(), ErrNoEngine, errNotRunning)
	}
	return member{f.Fleet, v, id}, nil
}

// Outlived implements groups.Members: engines of what has left a group mostly do not run. What
// is being made is in none yet, and holds nothing.
func (f members) Outlived(name string, joins journal.VolumeID) bool {
	return slices.ContainsFunc(f.inGroup(name, true), func(v *volume) bool {
		r := f.recordOf(v)
		return r.ID != joins && (r.Retired || r.Group != name)
	})
}

// Serving implements groups.Members.
func (f members) Serving(st group.State) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range st.Members {
		if v := f.volumes[id]; v != nil && v.running {
			return true
		}
	}
	return false
}

// Histories implements groups.Members.
func (f members) Histories(ctx context.Context, st group.State) ([]group.History, error) {
	return f.HistoriesIn(ctx, st, 0, 0)
}

// HistoriesIn implements groups.Members.
func (f members) HistoriesIn(ctx context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.History, error) {
	return f.ask(ctx, st, func(ctx context.Context, c *control.Client, h *group.History) (err error) {
		h.Checkpoints, err = c.Checkpoints(ctx, st.Name, from, to)
		return err
	})
}

// OpenableIn implements groups.Members.
func (f members) OpenableIn(ctx context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.History, error) {
	return f.ask(ctx, st, func(ctx context.Context, c *control.Client, h *group.History) (err error) {
		h.Checkpoints, err = c.OpenableCheckpoints(ctx, st.Name, from, to)
		return err
	})
}

// Release implements groups.Members.
func (f members) Release(ctx context.Context, st group.State, name string) {
	var releasing sync.WaitGroup
	for _, v := range f.inGroup(st.Name, true) {
		f.mu.Lock()
		client := v.client
		f.mu.Unlock()
		if client == nil {
			continue // what it held went with its process
		}
		releasing.Go(func() {
			if err := client.Release(ctx, name); err != nil {
				f.cfg.Log.Debug("a volume holds a position until it has held it for long", "volume", client.Volume(), "by", name, "error", err)
			}
		})
	}
	releasing.Wait()
}

// Pinned implements groups.Members.
func (f members) Pinned(ctx context.Context, st group.State) ([]group.History, error) {
	return f.ask(ctx, st, func(ctx context.Context, c *control.Client, h *group.History) (err error) {
		if len(h.Pins) > 0 {
			h.Checkpoints, h.Left, err = c.PinnedCheckpoints(ctx, st.Name)
		}
		return err
	})
}

// Outlines implements groups.Members.
func (f members) Outlines(ctx context.Context, st group.State) ([]group.History, error) {
	return f.ask(ctx, st, func(ctx context.Context, c *control.Client, h *group.History) (err error) {
		h.Pins = nil
		h.Checkpoints, err = c.Outline(ctx, st.Name)
		return err
	})
}

// ask has each engine of a group's members, and of its retired volumes, that
// answers complete a history, which has the pins already. Those that do not tell what
// they hold are away.
func (f members) ask(ctx context.Context, st group.State, complete func(context.Context, *control.Client, *group.History) error) ([]group.History, error) {
	volumes := f.inGroup(st.Name, true)
	all := make([]group.History, len(volumes))
	asking, ctx := errgroup.WithContext(ctx)
	for i, v := range volumes {
		f.mu.Lock()
		client, store := v.client, v.state.Store
		all[i] = group.History{Volume: v.record.ID, Away: !v.tellsLocked() && !(st.Role == group.RolePrimary && v.isAbsentLocked())}
		f.mu.Unlock()
		if client == nil || store == nil {
			continue
		}
		asking.Go(func() error {
			all[i].Pins = f.pinsOf(v)
			return complete(ctx, client, &all[i])
		})
	}
	return all, asking.Wait()
}

// tellsLocked reports whether a volume tells what it holds: its engine answers, and has
// carried out orders, for which one that has a store opens it. Fleet.mu is held.
func (v *volume) tellsLocked() bool {
	return v.client != nil && (v.state.Store != nil || v.state.Term != 0)
}

// Ends implements groups.Members. What an engine told last may be older than
// what it holds: the ends are then those of that moment.
func (f members) Ends(st group.State) (oldest, newest []journal.CheckpointNumber) {
	volumes := f.inGroup(st.Name, true)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range volumes {
		if v.client == nil || v.state.Store == nil {
			continue
		}
		// A volume that has come from another group begins with that one's.
		if first := v.state.Store.Oldest; first.Group == st.Name {
			oldest = append(oldest, first.Number)
		}
		if last := v.state.Store.Newest; last.Group == st.Name {
			newest = append(newest, last.Number)
		}
	}
	return oldest, newest
}

// Whole implements groups.Members.
func (f members) Whole(st group.State) bool {
	volumes := f.inGroup(st.Name, false)
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(volumes, func(v *volume) bool { return v.state.Store == nil || v.state.Store.Horizon.Seq > 0 })
}

// pinsOf are the pins that a volume's engine told of last.
func (f *Fleet) pinsOf(v *volume) map[string]journal.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v.state.Store == nil {
		return nil
	}
	return v.state.Store.Pins
}

// Complete implements groups.Members.
func (f members) Complete(st group.State) bool {
	known := map[journal.VolumeID]bool{}
	for _, v := range f.inGroup(st.Name, true) {
		f.mu.Lock()
		open := v.client != nil && v.state.Store != nil
		known[v.record.ID] = true
		f.mu.Unlock()
		if !open {
			return false
		}
	}
	return !slices.ContainsFunc(st.Members, func(id journal.VolumeID) bool { return !known[id] })
}

// Changed implements groups.Members: a replica's engines run, used or not, and a
// larger budget may need a larger backing volume.
func (f members) Changed(name string) {
	f.pokeGroup(name)
	for _, v := range f.inGroup(name, false) {
		f.follow(v)
	}
}

// GiveBack implements groups.Members. The members of a replica are not attached.
func (f members) GiveBack([]journal.VolumeID) {}

// Describe implements groups.Members.
func (f members) Describe(ids []journal.VolumeID) ([]replication.Member, error) {
	var all []replication.Member
	for _, id := range ids {
		v, err := f.volumeOf(id)
		if err != nil {
			return nil, err
		}
		r := f.recordOf(v)
		all = append(all, replication.Member{Volume: id, Name: r.Name, SizeBytes: r.SizeBytes, Attributes: r.Attributes})
	}
	return all, nil
}

// Follow implements groups.Members. Replicas get their backing volumes when
// their engines are started.
func (f members) Follow(ctx context.Context, peer string, a replication.Announcement) error {
	present := map[journal.VolumeID]bool{}
	for _, m := range a.Members {
		present[m.Volume] = true
		if err := f.followMember(ctx, peer, a, m); err != nil {
			return err
		}
	}
	for _, v := range f.inGroup(a.Group, false) {
		if present[f.recordOf(v).ID] {
			continue
		}
		if err := f.change(ctx, v, func(r *record) { r.Retired = true }); err != nil {
			return err
		}
	}
	return nil
}

func (f members) followMember(ctx context.Context, peer string, a replication.Announcement, m replication.Member) error {
	v, err := f.volumeOf(m.Volume)
	if err != nil {
		class, err := f.cfg.ReplicaBacking(ctx, peer, m.Attributes[replication.AttributeClass])
		if err != nil {
			return fmt.Errorf("replica of volume %s: %w", m.Volume, err)
		}
		// It counts as ordered to follow before its engine has any orders: this site may become the
		// primary before it has, or the volume leave, and what nobody had ordered yet would be made then.
		_, err = f.add(record{ID: m.Volume, Name: m.Name, Group: a.Group, SizeBytes: m.SizeBytes, Orders: control.Orders{Role: control.Replica, Term: uint64(a.Term)},
			Attributes: m.Attributes, Backing: BackingSpec{Volume: m.Volume, BackingClass: class, VolumeBytes: m.SizeBytes, JournalBytes: journalBytes(a.Settings, m.SizeBytes)}})
		return err
	}
	f.setBeingMade(v, false)
	r := f.recordOf(v)
	if r.Name == m.Name && r.Group == a.Group && r.SizeBytes == m.SizeBytes && !r.Retired && maps.Equal(r.Attributes, m.Attributes) {
		f.follow(v)
		return nil
	}
	err = f.change(ctx, v, func(r *record) {
		r.enter(a.Group)
		r.Name, r.SizeBytes, r.Retired, r.Attributes = m.Name, m.SizeBytes, false, m.Attributes
	})
	if err == nil {
		f.follow(v)
	}
	return err
}

// journalBytes is the journal budget that a backing volume has to find room
// for.
func journalBytes(s group.Settings, volumeBytes int64) int64 {
	if s.JournalBytes > 0 {
		return s.JournalBytes
	}
	return journal.DefaultBudget(volumeBytes)
}
