package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// NewVolume is a volume to be made.
type NewVolume struct {
	ID        journal.VolumeID
	Name      string
	SizeBytes int64
	Group     string
	Settings  group.Settings // of the group, if it does not exist yet
	Fill      *Source        // nil: zeroes
	Backing   BackingClass
	Node      string // where it is going to be used first; empty: not known
	// Expected is Node where it is a scheduler's choice; else empty.
	Expected string
	Claim    string // NAMESPACE/NAME, for people
	// Attributes describe the volume to a peer.
	Attributes map[string]string
}

// CreateVolume makes a volume and a member of its group, and returns where it
// can be used. Idempotent, also after a crash in the midst of an earlier call.
// With a Fill it takes as long as copying takes. An engine, and a backing volume, is waited for no longer than
// Config.EngineWait: ErrNoEngine, ErrNotBound, and what there is by then RetireVolume and DeleteVolume
// take away.
func (f *Fleet) CreateVolume(ctx context.Context, n NewVolume) (Placement, error) {
	unlock, err := f.locks.Lock(ctx, volumeKey(n.ID))
	if err != nil {
		return Placement{}, err
	}
	defer unlock()
	settings := n.Settings.WithDefaults()
	if err := settings.Validate(); err != nil {
		return Placement{}, fmt.Errorf("create volume %s: %w", n.ID, err)
	}
	st, err := f.groups.State(n.Group)
	if err == nil && st.Role != group.RolePrimary {
		return Placement{}, fmt.Errorf("create volume %s in group %s: site %s is its %s: %w", n.ID, n.Group, f.cfg.Site, st.Role, group.ErrRole)
	}
	if err == nil {
		settings = st.Settings
	} else if !errors.Is(err, group.ErrNotFound) {
		return Placement{}, err
	}
	v, err := f.intend(ctx, n, settings)
	if err != nil {
		return Placement{}, err
	}
	f.setBeingMade(v, !f.isMember(v))
	f.expectAt(v, n.Expected)
	placement, err := f.backedSoon(ctx, v)
	if err == nil && n.Fill != nil {
		defer f.hold(v)() // what has filled it is what it is going to be attached to
		err = f.fill(ctx, v, *n.Fill)
	}
	if err == nil && placement.Pending {
		// Nobody has chosen a node: the engine's scheduler does.
		defer f.hold(v)()
		err = f.servedSoon(ctx, v)
	}
	if err != nil {
		return Placement{}, fmt.Errorf("create volume %s: %w", n.ID, err)
	}
	if placement, err = f.backedSoon(ctx, v); err != nil {
		return Placement{}, fmt.Errorf("create volume %s: %w", n.ID, err)
	}
	if err := f.join(ctx, v, settings); err != nil {
		return placement, err
	}
	f.expectSoon(v)
	return placement, nil
}

// intend finds or makes the volume's record.
func (f *Fleet) intend(ctx context.Context, n NewVolume, settings group.Settings) (*volume, error) {
	v, err := f.volumeOf(n.ID)
	if errors.Is(err, ErrNotFound) {
		return f.add(record{ID: n.ID, Name: n.Name, Group: n.Group, SizeBytes: n.SizeBytes, Fill: n.Fill, Attributes: n.Attributes,
			Backing: BackingSpec{Volume: n.ID, BackingClass: n.Backing, VolumeBytes: n.SizeBytes, JournalBytes: journalBytes(settings, n.SizeBytes), Node: n.Node, Claim: n.Claim}})
	}
	r := f.recordOf(v)
	if r.Group != n.Group || r.SizeBytes < n.SizeBytes || r.Retired {
		return nil, fmt.Errorf("volume %s exists in group %s with %d bytes: %w", n.ID, r.Group, r.SizeBytes, ErrExists)
	}
	if r.Placement == nil && r.Backing.Node != n.Node {
		// The scheduler has chosen another node meanwhile.
		err = f.change(ctx, v, func(r *record) { r.Backing.Node = n.Node })
	}
	return v, err
}

// ensureBacking makes the backing volume if it is not there, and returns where
// it is.
func (f *Fleet) ensureBacking(ctx context.Context, v *volume) (Placement, error) {
	r := f.recordOf(v)
	if r.Placement != nil {
		return *r.Placement, nil
	}
	spec := r.Backing
	spec.Group, spec.New = r.Group, r.Orders.Revision == 0
	placement, err := f.cfg.Backing.Ensure(ctx, spec)
	if err != nil {
		return Placement{}, fmt.Errorf("make backing volume: %w", err)
	}
	if placement.Pending {
		return placement, nil
	}
	return placement, f.change(ctx, v, func(r *record) { r.Placement = &placement })
}

// backedSoon is ensureBacking within Config.EngineWait: a provisioner may neither bind a claim nor
// refuse it.
func (f *Fleet) backedSoon(ctx context.Context, v *volume) (placement Placement, err error) {
	err = inTime(ctx, f.cfg.EngineWait, "the backing volume has not come", "see the events of its claim, and whether the provisioner of its class runs", ErrNotBound,
		func(ctx context.Context) (err error) {
			placement, err = f.ensureBacking(ctx, v)
			return err
		})
	return placement, err
}

// copyAttempts is how often a copy is begun that loses an engine. Each begins anew.
const copyAttempts = 5

// fill has the engine of a new volume copy its first content, unless it has. Where its
// engine goes away meanwhile, or that of the source, both are waited for again.
func (f *Fleet) fill(ctx context.Context, v *volume, from Source) error {
	if f.recordOf(v).Fill == nil {
		return nil
	}
	source, err := f.volumeOf(from.Member)
	if err != nil {
		return err
	}
	defer f.hold(source)()
	defer f.hold(v)()
	for attempt := 1; ; attempt++ {
		if err := f.servedSoon(ctx, source); err != nil { // which has its store open then
			return err
		}
		if err := f.answerSoon(ctx, v); err != nil {
			return err
		}
		state, err := f.reorder(ctx, v, nil)
		switch {
		case err == nil && state.Store == nil:
			return fmt.Errorf("fill volume from volume %s: %w", from.Member, control.ErrNoStore)
		case err == nil:
			return f.change(ctx, v, func(r *record) { r.Fill = nil })
		case ctx.Err() != nil || !connectionLost(err) || attempt == copyAttempts:
			return err
		}
		f.cfg.Log.Info("a copy that lost an engine is begun anew", "volume", f.recordOf(v).ID, "source", from.Member, "error", err)
		if err := f.pause(ctx); err != nil { // its end may not be known yet
			return err
		}
	}
}

// answerSoon returns once a volume's engine answers, within Config.EngineWait.
func (f *Fleet) answerSoon(ctx context.Context, v *volume) error {
	return within(ctx, f.cfg.EngineWait, func(ctx context.Context) error {
		_, err := f.connected(ctx, v)
		return err
	})
}

// servedSoon is served within Config.EngineWait: of a volume into which nothing is copied.
func (f *Fleet) servedSoon(ctx context.Context, v *volume) error {
	return within(ctx, f.cfg.EngineWait, func(ctx context.Context) error {
		_, err := f.served(ctx, v)
		return err
	})
}

// pause waits for as long as between two attempts to have an engine run.
func (f *Fleet) pause(ctx context.Context) error {
	timer := f.cfg.Clock.NewTimer(retryPause)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-f.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fillOf says where an engine finds its first content.
func (f *Fleet) fillOf(from Source) (*control.Fill, error) {
	source, err := f.volumeOf(from.Member)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if source.client == nil {
		return nil, fmt.Errorf("%s: %w: %w", source.record.title(), ErrNoEngine, orUnknown(source.failure))
	}
	return &control.Fill{Address: source.address, Volume: from.Member, Pin: from.Pin}, nil
}

// join makes the volume a member of its group. If the group is in use, the
// member's engine is there first: until it is, the group would take no points.
func (f *Fleet) join(ctx context.Context, v *volume, settings group.Settings) error {
	r := f.recordOf(v)
	st, err := f.groups.State(r.Group)
	if err == nil && (members{f}).Serving(st) {
		defer f.hold(v)()
		if err := f.servedSoon(ctx, v); err != nil {
			return err
		}
	}
	unlock, err := f.locks.Lock(ctx, groupKey(r.Group))
	if err != nil {
		return err
	}
	defer unlock()
	f.setBeingMade(v, false) // its group asks it from here on
	if err := f.groups.Join(ctx, r.Group, settings, r.ID); err != nil {
		f.setBeingMade(v, !f.isMember(v))
		return err
	}
	f.follow(v) // the budget may have been changed meanwhile
	f.pokeGroup(r.Group)
	return nil
}

// isMember reports whether a volume is a member of the group that its record names.
func (f *Fleet) isMember(v *volume) bool {
	r := f.recordOf(v)
	st, err := f.groups.State(r.Group)
	return err == nil && slices.Contains(st.Members, r.ID)
}

func (f *Fleet) setBeingMade(v *volume, making bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.making = making
}

func (f *Fleet) isBeingMade(v *volume) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return v.making
}

// RetireVolume takes a detached volume out of its group but keeps its store for
// the pins that need it. No error if there is no such volume. A replica stays as
// it is: who is a member is for its primary to say.
func (f *Fleet) RetireVolume(ctx context.Context, id journal.VolumeID) error {
	if f.IsReplica(id) {
		return nil
	}
	return f.withDetached(ctx, id, func(v *volume) error {
		r := f.recordOf(v)
		unlock, err := f.locks.Lock(ctx, groupKey(r.Group))
		if err != nil {
			return err
		}
		defer unlock()
		if f.IsReplica(id) { // demoted while this waited
			return nil
		}
		defer f.pokeGroup(r.Group)
		if !f.isBeingMade(v) {
			if err := f.groups.Leave(ctx, r.Group, id, false); err != nil {
				return err
			}
		}
		return f.change(ctx, v, func(r *record) { r.Retired = true })
	})
}

// leave tells the group of a volume that this is gone for good, if it ever was there.
func (f *Fleet) leave(ctx context.Context, v *volume) error {
	if f.isBeingMade(v) {
		return nil
	}
	r := f.recordOf(v)
	unlock, err := f.locks.Lock(ctx, groupKey(r.Group))
	if err != nil {
		return err
	}
	defer unlock()
	defer f.pokeGroup(r.Group)
	return f.groups.Leave(ctx, r.Group, r.ID, true)
}

// leaveFormer tells the groups that a volume was in before that it is gone for
// good: their points of then are points without it.
func (f *Fleet) leaveFormer(ctx context.Context, v *volume) error {
	r := f.recordOf(v)
	for _, name := range r.Former {
		unlock, err := f.locks.Lock(ctx, groupKey(name))
		if err != nil {
			return err
		}
		err = f.groups.Leave(ctx, name, r.ID, true)
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteVolume removes a detached volume that RetireVolume has retired, with
// everything it has. No error if there is no such volume. A replica stays as it is:
// deleting the claim that it had here before must not take the copy away that
// protects the primary. So does one that was a replica when it was to be retired:
// this site has become the primary since, and it is the copy in use. See
// RemoveReplica. The engine, and the backing volume, is waited for no longer than Config.EngineWait to be gone: ErrNotGone, and
// the next call goes on.
func (f *Fleet) DeleteVolume(ctx context.Context, id journal.VolumeID) error {
	if f.IsReplica(id) {
		return nil
	}
	return f.withDetached(ctx, id, func(v *volume) error {
		if r := f.recordOf(v); !r.Retired {
			f.cfg.Log.Warn("a volume stays that was another site's replica when its claim was deleted here", "volume", id, "group", r.Group)
			return nil
		}
		return f.remove(ctx, v)
	})
}

// remove takes a detached volume away. Its key is held.
func (f *Fleet) remove(ctx context.Context, v *volume) error {
	id := f.recordOf(v).ID
	if err := f.leave(ctx, v); err != nil {
		return err
	}
	if err := f.leaveFormer(ctx, v); err != nil {
		return err
	}
	f.mu.Lock()
	v.gone = true
	v.notifyLocked()
	f.mu.Unlock()
	v.poke()
	err := inTime(ctx, f.cfg.EngineWait, "the volume's engine has not gone", "of a node that is lost for good, delete the Node or taint it node.kubernetes.io/out-of-service", ErrNotGone,
		func(ctx context.Context) error { return f.stopped(ctx, v) })
	if err != nil {
		return err
	}
	err = inTime(ctx, f.cfg.EngineWait, "the backing volume has not gone", "see what uses its claim", ErrNotGone,
		func(ctx context.Context) error { return f.cfg.Backing.Delete(ctx, id) })
	if err != nil {
		return fmt.Errorf("delete backing volume of volume %s: %w", id, err)
	}
	// The record goes last: until then the next call finds the rest.
	if err := f.deleteRecord(id); err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.volumes, id)
	f.mu.Unlock()
	return nil
}

// stopped waits until no process of a volume's engine can be there any more.
func (f *Fleet) stopped(ctx context.Context, v *volume) error {
	for {
		f.mu.Lock()
		running, changed, failure, id, node := v.running, v.changed, v.failure, v.record.ID, v.node
		f.mu.Unlock()
		if !running {
			return nil
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("wait for the engine of volume %s to be gone from node %q: %w: %w", id, node, ctx.Err(), orUnknown(failure))
		}
	}
}

// withDetached runs fn under the key of a volume that is not attached.
func (f *Fleet) withDetached(ctx context.Context, id journal.VolumeID, fn func(*volume) error) error {
	unlock, err := f.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	v, err := f.volumeOf(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if a := f.recordOf(v).Attach; a != nil {
		return fmt.Errorf("%s is attached to node %s: %w", members{f}.Title(id), a.Node, groups.ErrInUse)
	}
	if f.isViewed(id) {
		return fmt.Errorf("%s is shown by an open view: close it first: %w", members{f}.Title(id), groups.ErrInUse)
	}
	return fn(v)
}

// ExpandVolume makes a volume at least sizeBytes big: first its backing volume,
// then the store, then its device. group.ErrRole for a replica, which is as big as its
// primary's volume. ErrNoEngine where the engine has not come within Config.EngineWait.
func (f *Fleet) ExpandVolume(ctx context.Context, id journal.VolumeID, sizeBytes int64) error {
	unlock, err := f.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	v, err := f.volumeOf(id)
	if err != nil {
		return err
	}
	defer f.hold(v)()
	if f.recordOf(v).SizeBytes < sizeBytes {
		if err := f.mayGrow(v); err != nil {
			return err
		}
		budget, err := f.budgetOf(v, sizeBytes)
		if err != nil {
			return err
		}
		if err := f.growBacking(ctx, v, sizeBytes, budget); err != nil {
			return err
		}
	}
	if err = f.servedSoon(ctx, v); err != nil {
		return err
	}
	if f.recordOf(v).SizeBytes < sizeBytes { // demoted meanwhile
		return f.mayGrow(v)
	}
	return nil
}

// mayGrow refuses to expand a replica: its size is its primary's to say.
func (f *Fleet) mayGrow(v *volume) error {
	r := f.recordOf(v)
	st, err := f.groups.State(r.Group)
	if err == nil && st.Role != group.RolePrimary {
		err = fmt.Errorf("expand %s: site %s is primary for group %s: expand it there, or fail over first: %w", r.title(), st.Source, r.Group, group.ErrRole)
	}
	return err
}
