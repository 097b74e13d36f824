package groups

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Standings is what replication asks of the groups.
func (g *Groups) Standings() replication.Groups { return standings{g} }

// standings implements replication.Groups.
type standings struct{ *Groups }

// Standing implements replication.Groups.
func (g standings) Standing(_ context.Context, name string) (replication.Standing, bool, error) {
	st, err := g.reg.Get(name)
	if errors.Is(err, group.ErrNotFound) {
		return replication.Standing{}, false, nil
	}
	return standingOf(st), err == nil, err
}

func standingOf(st group.State) replication.Standing {
	return replication.Standing{Role: st.Claimed(), Term: st.Term, Source: st.Source}
}

// Follow implements replication.Groups.
func (g standings) Follow(ctx context.Context, peer string, a replication.Announcement) error {
	left, keys := g.leftFor(peer, a), []string{Key(a.Group)}
	for _, name := range left {
		keys = append(keys, Key(name))
	}
	unlock, err := g.cfg.Locks.Lock(ctx, keys...)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := g.reg.Get(a.Group)
	if err != nil && !errors.Is(err, group.ErrNotFound) {
		return err
	}
	if st.Term > a.Term || st.Term == a.Term && st.Claimed() == group.RolePrimary {
		return &replication.TermError{Kind: replication.ErrStaleTerm, Group: a.Group, Offered: a.Term, Held: st.Term, Owner: standingOf(st).Owner(g.cfg.Site)}
	}
	if err := g.mayTake(a); err != nil {
		return err
	}
	if err := g.giveUpPrimary(ctx, st); err != nil {
		return err
	}
	if err := g.stopTaken(ctx, left, a); err != nil {
		return err
	}
	if st.Pending != nil { // it is given up with what follows
		defer g.Release(ctx, st.Name, st.Pending.ID)
	}
	if err := g.cfg.Members.Follow(ctx, peer, a); err != nil {
		return err
	}
	if !sameAs(st, peer, a) {
		if err := g.saveFollowing(ctx, peer, a); err != nil {
			return err
		}
	}
	if err := g.leaveFor(ctx, peer, left, a); err != nil {
		return err
	}
	r := g.runningOf(a.Group)
	if r == nil || r.coord != nil { // new here, or demoted
		if err := g.restart(ctx, a.Group); err != nil {
			return err
		}
		r = g.runningOf(a.Group)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	r.announced, r.heard = a, g.cfg.Clock.Now()
	return nil
}

// leftFor names the other groups that announced members are in here and leave: those
// of the peer, where they have moved, and nobody announces a group that ended with
// that; and those that this site was the primary of until the peer was promoted over
// what the members were in before.
func (g standings) leftFor(peer string, a replication.Announcement) []string {
	var names []string
	for _, st := range g.reg.List() {
		if st.Name != a.Group && mayLeaveFor(st, peer, a) && slices.ContainsFunc(st.Members, isAnnounced(a)) {
			names = append(names, st.Name)
		}
	}
	return names
}

func mayLeaveFor(st group.State, peer string, a replication.Announcement) bool {
	if st.Claimed() == group.RolePrimary {
		return st.Term < a.Term
	}
	return st.Source == peer
}

// mayTake refuses an announcement of a volume that is a member of another group which
// this site is the primary of at the same term or a higher one: the peer has moved it
// there as what it is no more, the primary for it. A move keeps a volume's term or
// raises it, so that of two groups with one volume the terms can be compared as of one.
func (g standings) mayTake(a replication.Announcement) error {
	for _, st := range g.reg.List() {
		if st.Name != a.Group && st.Claimed() == group.RolePrimary && st.Term >= a.Term && slices.ContainsFunc(st.Members, isAnnounced(a)) {
			g.cfg.Log.Debug("a peer has a volume in another group, and this site is the primary for it", "group", st.Name, "term", st.Term, "at-the-peer", a.Group, "its-term", a.Term)
			return &replication.TermError{Kind: replication.ErrSplitBrain, Group: a.Group, Offered: a.Term, Held: st.Term, Owner: g.cfg.Site}
		}
	}
	return nil
}

// stopTaken stops writes to announced members of groups that this site was the primary
// of, before they become replicas.
func (g standings) stopTaken(ctx context.Context, left []string, a replication.Announcement) error {
	for _, name := range left {
		st, err := g.reg.Get(name)
		if err != nil || st.Role != group.RolePrimary {
			continue
		}
		taken := slices.DeleteFunc(slices.Clone(st.Members), func(id journal.VolumeID) bool { return !isAnnounced(a)(id) })
		g.cfg.Log.Warn("site gives up volumes of a group to a newer primary, which has them in another one", "group", name, "term", st.Term, "there", a.Group, "its-term", a.Term)
		if err := g.stopWrites(ctx, taken); err != nil {
			return err
		}
	}
	return nil
}

func isAnnounced(a replication.Announcement) func(journal.VolumeID) bool {
	return func(id journal.VolumeID) bool {
		return slices.ContainsFunc(a.Members, func(m replication.Member) bool { return m.Volume == id })
	}
}

// leaveFor takes announced members out of the groups that they have left, whose
// keys are held: a failover of those must not fork them.
func (g standings) leaveFor(ctx context.Context, peer string, left []string, a replication.Announcement) error {
	for _, name := range left {
		st, err := g.reg.Get(name)
		if err != nil || !mayLeaveFor(st, peer, a) {
			continue // ended, or failed over, since
		}
		for _, id := range st.Members {
			if !isAnnounced(a)(id) {
				continue
			}
			if err := g.Leave(ctx, name, id, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func announcedMembers(a replication.Announcement) []journal.VolumeID {
	ids := make([]journal.VolumeID, len(a.Members))
	for i, m := range a.Members {
		ids[i] = m.Volume
	}
	return ids
}

// checkpointSlack is how far LastCheckpoint may stay behind between two saves
// of a replica's state; a promote goes on above what the stores hold anyway.
const checkpointSlack = 1000

// sameAs reports whether an announcement says nothing that must be saved.
func sameAs(st group.State, peer string, a replication.Announcement) bool {
	settings := a.Settings
	settings.ReplicateTo = st.Settings.ReplicateTo
	return st.Role == group.RoleReplica && st.Orphaned.IsZero() && st.SourceRests == a.Resting && st.Term == a.Term && st.Source == peer && st.Settings == settings.WithDefaults() &&
		slices.Equal(st.Members, announcedMembers(a)) &&
		!slices.ContainsFunc(a.Deleted, func(id journal.VolumeID) bool { return !st.IsDeleted(id) }) && a.NewestCheckpoint < st.LastCheckpoint+checkpointSlack
}

func (g *Groups) saveFollowing(ctx context.Context, peer string, a replication.Announcement) error {
	st, err := g.reg.Update(a.Group, func(st *group.State) error {
		replicateTo := st.Settings.ReplicateTo
		st.Follow(peer, a.Term)
		st.Settings = a.Settings.WithDefaults()
		st.Settings.ReplicateTo = replicateTo
		st.Members, st.SourceRests = announcedMembers(a), a.Resting
		st.AddDeleted(a.Deleted, nil)
		st.LastCheckpoint = max(st.LastCheckpoint, a.NewestCheckpoint)
		return nil
	})
	if err != nil {
		return err
	}
	// Follow has made members of a group that was not known yet. Their engines are
	// wanted from now on, and get their settings when they answer; those that run
	// get them here, before others are there that do not answer yet.
	err = g.setRetention(ctx, st)
	g.cfg.Members.Changed(a.Group)
	return err
}

// giveUpPrimary stops writes and checkpoints before the role changes.
func (g *Groups) giveUpPrimary(ctx context.Context, st group.State) error {
	if st.Role != group.RolePrimary {
		return nil
	}
	g.cfg.Log.Warn("site gives up a group to a newer primary", "group", st.Name, "term", st.Term)
	if err := g.stopWrites(ctx, st.Members); err != nil {
		return err
	}
	g.Stop(st.Name)
	return nil
}

// Demote implements replication.Groups. It is called from the group's own
// sender, which ends right after; the group is restarted in its new role by
// the next announcement.
func (g standings) Demote(ctx context.Context, name string, held group.Term, owner string) error {
	unlock, err := g.cfg.Locks.Lock(ctx, Key(name))
	if err != nil {
		return err
	}
	defer unlock()
	st, err := g.reg.Get(name)
	if err == nil && owner == g.cfg.Site && st.Claimed() == group.RolePrimary {
		return g.takeUp(ctx, st, held)
	}
	if err != nil || st.Term >= held {
		return err
	}
	// Its coordinator is not joined here: a checkpoint that it appends once the members are
	// fed by the newer primary would be one of the old group's.
	r := g.runningOf(name)
	suspend := func(suspended bool) {
		if r != nil && r.coord != nil {
			r.coord.Suspend(suspended)
		}
	}
	suspend(true)
	err = g.stopWrites(ctx, st.Members)
	next := st
	if err == nil {
		next, err = g.reg.Update(name, func(st *group.State) error {
			st.Follow(owner, held)
			return nil
		})
	}
	if err != nil { // it is the primary still, and this is tried again
		suspend(false)
		return err
	}
	if st.Pending != nil {
		g.Release(ctx, name, st.Pending.ID)
	}
	g.cfg.Log.Warn("site was demoted: a newer primary exists", "group", name, "term", held, "primary", owner)
	g.tell(ctx, next)
	g.cfg.Members.Changed(name)
	if r != nil {
		r.stop() // joined by whoever stops or restarts the group
	}
	return nil
}

// tellTimeout bounds how long members may take to follow what a refusal has told of.
const tellTimeout = 5 * time.Second

// tell has the members follow what a refusal has told of: nothing that comes next says more
// than this site knows by now. One that has not done so within the time does when it can.
func (g standings) tell(ctx context.Context, st group.State) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	if err := g.setRetention(ctx, st); err != nil {
		g.cfg.Log.Warn("a member does not follow yet what its group has become", "group", st.Name, "term", st.Term, "error", err)
	}
}

// takeUp raises the term of a group that this site is the primary of to one that it owns
// already: the group was made anew under the name of one that had been failed over and
// back, and of which the peer has kept a replica. There is no newer primary to give way to.
func (g standings) takeUp(ctx context.Context, st group.State, held group.Term) error {
	raised := false
	next, err := g.reg.Update(st.Name, func(st *group.State) error {
		raised = st.Term < held
		st.Term = max(st.Term, held)
		return nil
	})
	if err != nil {
		return err
	}
	if raised {
		g.cfg.Log.Info("site takes up a term that it owns: an earlier group of the name had it", "group", st.Name, "term", held, "before", st.Term)
		g.tell(ctx, next)
		g.cfg.Members.Changed(st.Name)
	}
	return fmt.Errorf("group %s at term %d: %w", st.Name, held, replication.ErrOwnTerm)
}

// Announcement is what a peer is to be told of a group that is primary here.
func (g *Groups) Announcement(_ context.Context, name string) (replication.Announcement, error) {
	st, err := g.reg.Get(name)
	if err != nil {
		return replication.Announcement{}, err
	}
	a := replication.Announcement{Group: name, Term: st.Term, Settings: st.Settings, Deleted: st.Deleted}
	a.Settings.ReplicateTo = ""
	if a.Members, err = g.cfg.Members.Describe(st.Members); err != nil {
		return replication.Announcement{}, err
	}
	if r := g.runningOf(name); r != nil && r.coord != nil {
		a.NewestCheckpoint, a.ValidUntil = r.coord.Last(), r.coord.QuietUntil()
		addProgress(a.Members, r.replication)
	}
	return a, nil
}

// ProgressOf is the part of a volume's figures that its replica is told.
func ProgressOf(v replication.VolumeMetrics) replication.Progress {
	return replication.Progress{Connected: v.Connected, LagRecords: v.LagRecords, LagBytes: v.LagBytes,
		ImageBytes: v.ImageBytes, ImageSizeBytes: v.ImageSizeBytes}
}

// addProgress has the members tell how far their records have arrived.
func addProgress(members []replication.Member, sending Replication) {
	if sending == nil {
		return
	}
	for _, v := range sending.Metrics().Volumes {
		for i := range members {
			if members[i].Volume == v.Volume {
				p := ProgressOf(v)
				members[i].Progress = &p
			}
		}
	}
}
