package site

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// member is an open volume as its group works with it. It implements
// groups.Member, whose contexts it does not need: nothing here leaves the
// process.
type member struct {
	*engine.Engine
	site *Site
}

var (
	_ groups.Member    = member{}
	_ group.NearMember = member{}
)

func (m member) Dirty(context.Context) (bool, error) { return m.Engine.Dirty(), nil }

func (m member) Commit(_ context.Context, round uint64, c journal.Checkpoint) (journal.Position, error) {
	return m.Engine.Commit(round, c)
}

func (m member) Abort(_ context.Context, round uint64) { m.Engine.Abort(round) }

func (m member) Fork(_ context.Context, at journal.Position, reason string) error {
	return m.ForkOnce(at, reason)
}

func (m member) Pin(_ context.Context, name string, at journal.Position) error {
	if err := m.site.keepPin(m.Store(), name, at); err != nil {
		return err
	}
	return m.Store().Pin(name, at)
}

func (m member) PinCheckpoint(_ context.Context, name string, number journal.CheckpointNumber, at journal.Position) error {
	if err := m.site.keepPin(m.Store(), name, at); err != nil {
		return err
	}
	return m.Store().PinCheckpoint(name, number, at)
}

func (m member) Unpin(_ context.Context, name string) error { return m.Store().Unpin(name) }

func (m member) Hold(_ context.Context, name string, at journal.Position, number journal.CheckpointNumber, d time.Duration) error {
	if number != 0 {
		return m.Store().HoldCheckpoint(name, number, at, d)
	}
	return m.Store().Hold(name, at, d)
}

func (m member) SetWritable(ctx context.Context, writable bool) error {
	if !writable {
		return m.StopChanges(ctx)
	}
	// What is written meanwhile, by whoever has the device not exclusively, comes to nothing.
	if v, err := m.site.volumeOf(m.Volume()); err == nil {
		m.site.letDeviceGo(v)
	}
	m.SetReadOnly(false)
	return nil
}

func (m member) SetRetention(_ context.Context, settings group.Settings) error {
	applyRetention(m.Store(), settings)
	return nil
}

// Newest implements groups.Member. Where no member's store knows of a checkpoint and history
// was given up, as by a drain, a replica has points with numbers that nobody here knows:
// those that follow have to be above them, or it takes the old ones for the latest.
func (m member) Newest(context.Context) (journal.Checkpoint, error) {
	newest := m.Store().NewestCheckpoint()
	if newest.Number == 0 && m.Store().Horizon().Seq > 0 && !m.site.knowsCheckpoint(m.Volume()) {
		newest.Number = groups.NumberAbove(m.site.cfg.Clock.Now())
	}
	return newest, nil
}

// knowsCheckpoint reports whether a member of a volume's group holds a checkpoint. What was
// retired holds those of before, and none of those since.
func (s *Site) knowsCheckpoint(id journal.VolumeID) bool {
	v, err := s.volumeOf(id)
	if err != nil {
		return false
	}
	st, err := s.groups.State(s.recordOf(v).Group)
	return err == nil && slices.ContainsFunc(st.Members, func(id journal.VolumeID) bool {
		eng, err := s.engineOf(id)
		return err == nil && eng.Store().NewestCheckpoint().Number > 0
	})
}

func (m member) CheckUnused(context.Context) error {
	release, err := m.site.holdDevices([]journal.VolumeID{m.Volume()})
	if err != nil {
		return err
	}
	release()
	return nil
}

// Withdraw implements groups.Member: a device that nobody has open keeps nothing of its
// content when its cache was dropped, and nobody can mount it.
func (m member) Withdraw(context.Context) error {
	_, err := m.site.keepDevice(m.Volume())
	return err
}

// members implements groups.Members with the stores of this process.
type members struct{ *Site }

var _ groups.Members = members{}

// Member implements groups.Members.
func (s members) Member(id journal.VolumeID) (groups.Member, error) {
	v, err := s.volumeOf(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	nothing := v.hasNothing()
	s.mu.Unlock()
	if nothing {
		return absent{id}, nil
	}
	eng, err := s.engineOf(id)
	if err != nil {
		return nil, err
	}
	return member{eng, s.Site}, nil
}

// GiveBack implements groups.Members.
func (s members) GiveBack(ids []journal.VolumeID) {
	for _, id := range ids {
		if v, err := s.volumeOf(id); err == nil {
			s.letDeviceGo(v)
		}
	}
}

// HistoriesIn implements groups.Members.
func (s members) HistoriesIn(_ context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.History, error) {
	stores := s.openStores(st)
	all := make([]group.History, len(stores))
	for i, store := range stores {
		all[i] = group.History{Volume: store.Volume(), Checkpoints: store.CheckpointsIn(st.Name, from, to), Pins: s.pinsOf(store)}
	}
	return all, nil
}

// OpenableIn implements groups.Members.
func (s members) OpenableIn(_ context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.History, error) {
	stores := s.openStores(st)
	all := make([]group.History, len(stores))
	for i, store := range stores {
		all[i] = group.History{Volume: store.Volume(), Checkpoints: store.OpenableIn(st.Name, from, to), Pins: s.pinsOf(store)}
	}
	return all, nil
}

// Release implements groups.Members.
func (s members) Release(_ context.Context, st group.State, name string) {
	for _, store := range s.openStores(st) {
		store.Release(name)
	}
}

// Histories implements groups.Members.
func (s members) Histories(_ context.Context, st group.State) ([]group.History, error) {
	stores := s.openStores(st)
	all := make([]group.History, len(stores))
	for i, store := range stores {
		all[i] = group.History{Volume: store.Volume(), Checkpoints: store.Checkpoints(), Pins: s.pinsOf(store)}
	}
	return all, nil
}

// Pinned implements groups.Members.
func (s members) Pinned(_ context.Context, st group.State) ([]group.History, error) {
	stores := s.openStores(st)
	all := make([]group.History, len(stores))
	for i, store := range stores {
		all[i] = group.History{Volume: store.Volume(), Checkpoints: store.Checkpoints(), Left: store.LeftCheckpoints(st.Name), Pins: s.pinsOf(store)}
	}
	return all, nil
}

// Outlines implements groups.Members: nothing is sent.
func (s members) Outlines(ctx context.Context, st group.State) ([]group.History, error) {
	return s.Histories(ctx, st)
}

// Ends implements groups.Members.
func (s members) Ends(st group.State) (oldest, newest []journal.CheckpointNumber) {
	for _, store := range s.openStores(st) {
		if first := store.OldestCheckpoint(); first.Group == st.Name {
			oldest = append(oldest, first.Number)
		}
		if last := store.NewestCheckpoint(); last.Group == st.Name {
			newest = append(newest, last.Number)
		}
	}
	return oldest, newest
}

// Whole implements groups.Members.
func (s members) Whole(st group.State) bool {
	for _, id := range st.Members {
		v, err := s.Volume(id)
		if err != nil || !v.Open || v.Horizon.Seq > 0 {
			return false
		}
	}
	return true
}

// openStores are the stores of a group's members, and of its retired volumes,
// that are open.
func (s members) openStores(st group.State) []*journal.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stores []*journal.Store
	for id, v := range s.volumes {
		if v.eng != nil && (v.record.Retired && v.record.Group == st.Name || slices.Contains(st.Members, id)) {
			stores = append(stores, v.store())
		}
	}
	return stores
}

// Outlived implements groups.Members: stores that are open tell.
func (s members) Outlived(name string, joins journal.VolumeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, v := range s.volumes {
		if id != joins && v.record.Retired && v.record.Group == name && v.eng == nil && v.record.Store != "" {
			return true
		}
	}
	return false
}

// Serving implements groups.Members: stores of this process are open for as
// long as it lives.
func (s members) Serving(group.State) bool { return true }

// Changed implements groups.Members: stores are open in every role. A site that is
// no primary any more does not make a fork production.
func (s members) Changed(name string) { s.abandonCommits(context.Background(), name) }

// Complete implements groups.Members.
func (s members) Complete(st group.State) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range st.Members {
		if s.volumes[id] == nil {
			return false
		}
	}
	for id, v := range s.volumes {
		if v.eng == nil && (v.record.Group == st.Name || slices.Contains(st.Members, id)) {
			return false
		}
	}
	return true
}

// Title implements groups.Members.
func (s members) Title(id journal.VolumeID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[id]; v != nil {
		return fmt.Sprintf("volume %s (%s)", v.record.Name, id)
	}
	return "volume " + id.String()
}

// Describe implements groups.Members. A member that is absent is as large as it was
// announced: the peer, which has it, knows better.
func (s members) Describe(ids []journal.VolumeID) ([]replication.Member, error) {
	var all []replication.Member
	for _, id := range ids {
		v, err := s.volumeOf(id)
		if err != nil {
			return nil, err
		}
		r := s.recordOf(v)
		m := replication.Member{Volume: id, Name: r.Name, SizeBytes: r.SizeBytes}
		if r.Store != "" {
			eng, err := s.engineOf(id)
			if err != nil {
				return nil, err
			}
			m.SizeBytes = eng.SizeBytes()
		}
		all = append(all, m)
	}
	return all, nil
}

// Follow implements groups.Members: those that left the group are retired,
// because their checkpoints still complete older recovery points.
func (s members) Follow(_ context.Context, _ string, a replication.Announcement) error {
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
		if err := s.setRecord(id, s.withoutMissing(r)); err != nil {
			return err
		}
	}
	return nil
}
