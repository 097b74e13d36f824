package groups

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/keylock"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Config is what Groups needs; every field but StopsUsers and Forks is required.
type Config struct {
	Site       string // this site's name
	DB         kv.DB  // stays the caller's
	Members    Members
	Replicator Replicator
	// Locks orders changes: whoever changes a group holds Key of its name.
	Locks *keylock.Set
	Clock clock.Clock
	Log   *slog.Logger
	// StopsUsers says that whoever rewinds stops what uses the group first: that
	// it is in use does not keep a dry run from telling what would happen.
	StopsUsers bool
	// Forks are the site's writable forks; nil: it has none.
	Forks Forks
}

// Groups is the groups of one site. Its methods may be called concurrently.
type Groups struct {
	cfg   Config
	reg   *group.Registry
	fence Fencer

	// short are the groups whose windows were short when they were looked at last;
	// LookAtWindows' own.
	short map[string]bool

	mu      sync.Mutex
	running map[string]*running // guarded by mu
}

// running is what runs for a group on this site: for a primary its coordinator
// and its replication, for a replica nothing but what it was last told.
type running struct {
	stop        context.CancelFunc
	joined      sync.WaitGroup
	coord       *group.Coordinator // nil on a replica
	replication Replication
	// announced is the primary's newest word, on a replica; guarded by
	// Groups.mu.
	announced replication.Announcement
	// heard is when that came, begun when this began to wait for one; heard is
	// guarded by Groups.mu, and zero before the first.
	heard, begun time.Time
}

// Key is the key of a group in Config.Locks.
func Key(name string) string { return "group/" + name }

// Open reads the groups from the database; nothing runs before Start.
func Open(cfg Config) (*Groups, error) {
	reg, err := group.OpenRegistry(cfg.DB)
	if err != nil {
		return nil, err
	}
	if cfg.Forks != nil {
		reg.Filler = cfg.Forks
	}
	return &Groups{cfg: cfg, reg: reg, running: map[string]*running{}}, nil
}

// SetFencer says how to stop incoming replication. Call it before the first
// Failover.
func (g *Groups) SetFencer(f Fencer) { g.fence = f }

// State returns a group's state; group.ErrNotFound.
func (g *Groups) State(name string) (group.State, error) { return g.reg.Get(name) }

// States returns the states of all groups by name.
func (g *Groups) States() []group.State { return g.reg.List() }

// Start finishes what was interrupted in a group and starts what its role asks
// for; a primary group that rests is not started. The group's key must be held, or nobody else be there yet. ctx bounds
// the start alone.
func (g *Groups) Start(ctx context.Context, name string) error {
	st, err := g.reg.Get(name)
	if err != nil {
		return err
	}
	if st.Pending != nil {
		// First, so that members which are there hold it as long as others are waited for.
		pending := st.Pending
		if err := g.holdTargets(ctx, pending, st.Members); err != nil {
			g.cfg.Log.Warn("what an operation returns to is not held until it is finished", "group", name, "operation", pending.ID, "error", err)
		}
		members, err := g.forkers(st.Members)
		if err != nil {
			return fmt.Errorf("finish %s of group %s: %w", st.Pending.Kind, name, err)
		}
		if st, err = g.reg.Finish(ctx, name, members); errors.Is(err, group.ErrReverted) {
			g.cfg.Log.Error("an operation was given up, and the group is where it was before", "group", name, "error", err)
		} else if err != nil {
			return err
		}
		g.settle(ctx, pending.Fill)
		g.Release(ctx, name, pending.ID)
	}
	if st.Role == group.RolePrimary && !g.cfg.Members.Serving(st) {
		return nil
	}
	histories, err := g.cfg.Members.Histories(ctx, st)
	if err != nil { // a member that does not answer does not keep the others
		g.cfg.Log.Warn("a group starts without a look at its past", "group", name, "error", err)
	}
	g.dropRewindPins(ctx, st, histories)
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{stop: stop, begun: g.cfg.Clock.Now()}
	if st.Role == group.RolePrimary {
		if err := g.startPrimary(ctx, runCtx, r, st, histories); err != nil {
			stop()
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running[name] = r
	return nil
}

// dropRewindPins drops the pins of rewinds that are over. A crash may have come
// between the end of one and the loss of its pins, and a site that is demoted
// gives its rewind up: such a pin would hold the journal for ever.
func (g *Groups) dropRewindPins(ctx context.Context, st group.State, histories []group.History) {
	for _, h := range histories {
		if g.isElsewhere(h.Volume, st.Name) {
			continue // its rewind is another group's
		}
		for pin := range h.Pins {
			if !group.IsRewindPin(pin) || st.Needs(pin) {
				continue
			}
			m, err := g.cfg.Members.Member(h.Volume)
			if err == nil {
				err = m.Unpin(ctx, pin)
			}
			if err != nil {
				g.cfg.Log.Warn("dropping the pin of an old rewind failed", "volume", h.Volume, "pin", pin, "error", err)
			}
		}
	}
}

// isElsewhere reports whether a volume is a member of another group than name.
func (g *Groups) isElsewhere(id journal.VolumeID, name string) bool {
	return slices.ContainsFunc(g.reg.List(), func(st group.State) bool { return st.Name != name && slices.Contains(st.Members, id) })
}

// startPrimary lets the members take writes and begins to take checkpoints
// and to replicate. While a member is absent the others serve, but no recovery
// point comes into being: it would lack that member.
func (g *Groups) startPrimary(ctx, runCtx context.Context, r *running, st group.State, histories []group.History) error {
	last := st.LastCheckpoint
	// Numbers go on above those of an earlier group of this name, whose volumes
	// may still be there, too.
	for _, h := range histories {
		if n := len(h.Checkpoints); n > 0 {
			last = max(last, h.Checkpoints[n-1].Number)
		}
	}
	r.coord = group.NewCoordinator(st.Name, st.Settings, last, time.Time{}, g.cfg.Clock)
	members, newest := g.admitted(ctx, st)
	setMembers(r.coord, members, newest)
	r.joined.Go(func() { _ = r.coord.Run(runCtx) })
	var err error
	if r.replication, err = g.cfg.Replicator.Replicate(st); err != nil || r.replication == nil {
		return err
	}
	r.joined.Go(func() {
		if err := r.replication.Run(runCtx); err != nil && runCtx.Err() == nil {
			g.cfg.Log.Warn("replication ended", "group", st.Name, "error", err)
		}
	})
	return nil
}

// admit lets the members that are there take writes, and makes them the
// coordinator's. One of which there is nothing is in no checkpoint: nobody has
// written to it here.
//
// For a caller who has given up meanwhile it is as it was: an answer that nobody waited
// for says nothing of a member, and nobody would look again.
func (g *Groups) admit(ctx context.Context, coord *group.Coordinator, st group.State) error {
	members, newest := g.admitted(ctx, st)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("look at the members of group %s: %w", st.Name, err)
	}
	setMembers(coord, members, newest)
	return nil
}

// setMembers makes members the coordinator's; nil is none.
func setMembers(coord *group.Coordinator, members []group.Member, newest []journal.Checkpoint) {
	for _, c := range newest {
		coord.Raise(c.Number, c.Time)
	}
	coord.SetMembers(slices.DeleteFunc(members, func(m group.Member) bool { return m == nil }))
}

// admitted is what admit finds: of each member what is to take part, nil for one that is
// absent, and its newest checkpoint.
func (g *Groups) admitted(ctx context.Context, st group.State) ([]group.Member, []journal.Checkpoint) {
	members, newest := make([]group.Member, len(st.Members)), make([]journal.Checkpoint, len(st.Members))
	var admitting sync.WaitGroup
	for i, id := range st.Members {
		admitting.Go(func() {
			var err error
			if members[i], newest[i], err = g.admitMember(ctx, id); errors.Is(err, ErrAbsent) {
				g.cfg.Log.Warn("a group does without a member", "group", st.Name, "volume", id, "error", err)
				members[i] = nil
			} else if err != nil {
				g.cfg.Log.Warn("a member does not take part: its group takes no recovery points", "group", st.Name, "volume", id, "error", err)
				members[i] = absentMember{id, err}
			}
		})
	}
	admitting.Wait()
	return members, newest
}

// admitMember lets one member take writes. It may have to attach its device.
func (g *Groups) admitMember(ctx context.Context, id journal.VolumeID) (group.Member, journal.Checkpoint, error) {
	m, err := g.cfg.Members.Member(id)
	if err != nil {
		return nil, journal.Checkpoint{}, err
	}
	newest, err := m.Newest(ctx)
	if err == nil {
		err = m.SetWritable(ctx, true)
	}
	return m, newest, err
}

// IsUnfinished reports whether a group has an operation that is not finished, and that
// nobody who has its key is about to finish: the group could not be started.
func (g *Groups) IsUnfinished(name string) bool {
	st, err := g.reg.Get(name)
	return err == nil && st.Pending != nil && g.runningOf(name) == nil
}

// Stop ends what Start started, and waits for a checkpoint that somebody asked for; members refuse changes afterwards only if the
// caller makes them. No error if it does not run.
func (g *Groups) Stop(name string) {
	g.mu.Lock()
	r := g.running[name]
	delete(g.running, name)
	g.mu.Unlock()
	if r != nil {
		r.stop()
		r.joined.Wait()
		if r.coord != nil { // who asked for a checkpoint may have it still
			r.coord.End()
		}
	}
}

// Close stops all groups.
func (g *Groups) Close() {
	for _, st := range g.reg.List() {
		g.Stop(st.Name)
	}
}

func (g *Groups) restart(ctx context.Context, name string) error {
	g.Stop(name)
	return g.goOn(ctx, name)
}

// goOnTimeout bounds how long members may take to take part again, and to get their
// devices back.
const goOnTimeout = 30 * time.Second

// goOn starts a group that was stopped, also for a caller who does not wait any more:
// nobody else would.
func (g *Groups) goOn(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goOnTimeout)
	defer cancel()
	return g.Start(ctx, name)
}

// Refresh looks at the members of a group again: some have come, gone, or been
// replaced. A group that could not be started is started. The group's key must
// be held. No error if there is no such group.
func (g *Groups) Refresh(ctx context.Context, name string) error {
	st, err := g.reg.Get(name)
	if errors.Is(err, group.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	r := g.runningOf(name)
	if r == nil {
		return g.Start(ctx, name)
	}
	if r.coord != nil && st.Role == group.RolePrimary { // else it was demoted, and nobody is to write
		return g.admit(ctx, r.coord, st)
	}
	return nil
}

// Join makes an open volume a member of a group, which is made with settings
// if need be. The group's key must be held. group.ErrRole for a replica's, whose members
// are its primary's to say.
func (g *Groups) Join(ctx context.Context, name string, settings group.Settings, id journal.VolumeID) error {
	st, err := g.reg.Update(name, func(st *group.State) error {
		if st.Role == "" {
			st.Role, st.Term, st.Settings = group.RolePrimary, 1, settings
			st.LastCheckpoint = g.lastOf(name, id)
		}
		if st.Role != group.RolePrimary {
			return fmt.Errorf("join group %s: this site is its %s: %w", name, st.Role, group.ErrRole)
		}
		if !slices.Contains(st.Members, id) {
			st.Members = append(st.Members, id)
			slices.SortFunc(st.Members, func(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) })
			st.MadeAgain(id) // one of this id may have been deleted before
		}
		return nil
	})
	if err != nil {
		return err
	}
	return g.Refresh(ctx, st.Name)
}

// lastOf is what the numbers of a group that is made anew go on above, where volumes of an
// earlier one of the name are there that do not tell. Among the points of both the newest must
// be the one with the highest number.
func (g *Groups) lastOf(name string, joins journal.VolumeID) journal.CheckpointNumber {
	if !g.cfg.Members.Outlived(name, joins) {
		return 0
	}
	return NumberAbove(g.cfg.Clock.Now())
}

// Leave takes a volume out of a group, for good if it is deleted; a group
// without members ends. The group's key must be held. No error if it is no
// member.
func (g *Groups) Leave(ctx context.Context, name string, id journal.VolumeID, deleted bool) error {
	st, err := g.reg.Get(name)
	if errors.Is(err, group.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if slices.Contains(st.Members, id) || deleted && (!st.IsDeleted(id) || st.Removed[id].IsZero()) {
		named := g.named(ctx, st)
		st, err = g.reg.Update(name, func(st *group.State) error {
			st.Members = slices.DeleteFunc(st.Members, func(member journal.VolumeID) bool { return member == id })
			if deleted {
				st.Remove(id, named, g.cfg.Clock.Now())
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(st.Members) > 0 {
		return g.Refresh(ctx, name)
	}
	// Also one that an earlier call emptied and did not live to end.
	g.Stop(name)
	return g.reg.Delete(name)
}

// named returns who is named by a checkpoint that a store of the group holds;
// nil where not all of them can be asked.
func (g *Groups) named(ctx context.Context, st group.State) func(journal.VolumeID) bool {
	if !g.cfg.Members.Complete(st) {
		return nil
	}
	histories, err := g.cfg.Members.Histories(ctx, st)
	if err != nil {
		return nil
	}
	pinned, err := g.cfg.Members.Pinned(ctx, st) // on timelines that were left
	if err != nil {
		return nil
	}
	named := map[journal.VolumeID]bool{}
	for _, h := range slices.Concat(histories, pinned) {
		for _, c := range slices.Concat(h.Checkpoints, h.Left) {
			for _, id := range c.Members {
				named[id] = true
			}
		}
	}
	return func(id journal.VolumeID) bool { return named[id] }
}

// Modify replaces a group's settings, at once and durably. Members that are
// absent learn of them when they are back. group.ErrRole for a replica, whose settings
// are its primary's.
func (g *Groups) Modify(ctx context.Context, name string, settings group.Settings) error {
	unlock, err := g.cfg.Locks.Lock(ctx, Key(name))
	if err != nil {
		return err
	}
	defer unlock()
	settings = settings.WithDefaults()
	if err := settings.Validate(); err != nil {
		return err
	}
	st, err := g.reg.Get(name)
	if err != nil {
		return err
	}
	if st.Role == group.RoleReplica {
		return fmt.Errorf("change settings of group %s: site %s is its primary, and says what they are: %w", name, st.Source, group.ErrRole)
	}
	var before string
	st, err = g.reg.Update(name, func(st *group.State) error {
		before, st.Settings = st.Settings.ReplicateTo, settings
		return nil
	})
	if err != nil {
		return err
	}
	g.cfg.Members.Changed(name)
	if err := g.setRetention(ctx, st); err != nil {
		return err
	}
	if before != settings.ReplicateTo && g.runningOf(name) != nil {
		return g.restart(ctx, name) // to another peer, or to none
	}
	if r := g.runningOf(name); r != nil && r.coord != nil {
		r.coord.Configure(settings)
	}
	return nil
}

// Reconnect has a group that runs begin its replication anew: how its peer is
// reached has changed. No error if it does not run.
func (g *Groups) Reconnect(ctx context.Context, name string) error {
	unlock, err := g.cfg.Locks.Lock(ctx, Key(name))
	if err != nil {
		return err
	}
	defer unlock()
	if g.runningOf(name) == nil {
		return nil
	}
	return g.restart(ctx, name)
}

// setRetention has every member that is there follow what the group is by now, its settings
// among that. One that cannot does not keep the others from it.
func (g *Groups) setRetention(ctx context.Context, st group.State) error {
	errs := make([]error, len(st.Members))
	var setting sync.WaitGroup
	for i, id := range st.Members {
		m, err := g.cfg.Members.Member(id)
		if err != nil {
			continue // it learns of them when it is back
		}
		setting.Go(func() {
			if err := m.SetRetention(ctx, st.Settings); err != nil {
				errs[i] = fmt.Errorf("member %s: %w", id, err)
			}
		})
	}
	setting.Wait()
	return errors.Join(errs...)
}

func (g *Groups) runningOf(name string) *running {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running[name]
}

// coordinatorOf returns the coordinator of a group that is primary here.
func (g *Groups) coordinatorOf(name string) (*group.Coordinator, error) {
	st, err := g.reg.Get(name)
	if err != nil {
		return nil, err
	}
	r := g.runningOf(name)
	switch {
	case st.Role != group.RolePrimary:
		return nil, fmt.Errorf("group %s: this site is its %s, and site %s takes its checkpoints: %w", name, st.Role, st.Source, group.ErrRole)
	case r == nil || r.coord == nil:
		return nil, fmt.Errorf("group %s is not started: %w", name, group.ErrBarrier)
	}
	return r.coord, nil
}
