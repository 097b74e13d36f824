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

// tellPause is between two attempts to tell peers of groups that have ended.
const tellPause = 5 * time.Second

// TellEnds tells peers of the groups that have ended here, until ctx ends. Call
// it once.
func (g *Groups) TellEnds(ctx context.Context) {
	for {
		if ended, err := g.reg.Ended(); err != nil {
			g.cfg.Log.Warn("groups that have ended are not read", "error", err)
		} else {
			for _, e := range ended {
				if err := g.tellEnd(ctx, e); err != nil && ctx.Err() == nil {
					g.cfg.Log.Debug("peer is not told that a group has ended", "group", e.Name, "peer", e.Peer, "error", err)
				}
			}
		}
		timer := g.cfg.Clock.NewTimer(tellPause)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// tellEnd tells one peer. Meanwhile no group of that name can begin to be replicated to
// it: the peer would take the end for that one's. Where one is already, the peer learns the end from
// what is announced, and it is told of it only once that one has ended as well.
func (g *Groups) tellEnd(ctx context.Context, e group.Ended) error {
	unlock, err := g.cfg.Locks.Lock(ctx, Key(e.Name))
	if err != nil {
		return err
	}
	defer unlock()
	ended, err := g.reg.Ended()
	if err != nil || !slices.Contains(ended, e) {
		return err
	}
	if st, err := g.reg.Get(e.Name); err == nil && st.Announces(e) {
		return nil
	}
	if err := g.cfg.Replicator.Tell(ctx, e.Peer, replication.Announcement{Group: e.Name, Term: e.Term, Ended: true}); err != nil {
		return err
	}
	g.cfg.Log.Info("peer knows that a group has ended", "group", e.Name, "peer", e.Peer)
	return g.reg.ForgetEnd(e)
}

// Rest stops a primary group of which nothing is in use, and tells its peer, if
// that answers, that it is not announced before it is used again. The group's key
// must be held.
func (g *Groups) Rest(ctx context.Context, name string) {
	r := g.runningOf(name)
	if r == nil || r.replication == nil {
		g.Stop(name)
		return
	}
	a, err := g.Announcement(ctx, name)
	g.Stop(name) // so that no heartbeat comes after the word that there is none
	if err == nil {
		a.Resting = true
		err = g.cfg.Replicator.Tell(ctx, r.replication.Metrics().Peer, a)
	}
	if err != nil {
		g.cfg.Log.Info("peer does not know that a group rests", "group", name, "error", err)
	}
}

// Ended implements replication.Groups.
func (g standings) Ended(ctx context.Context, peer, name string, term group.Term) error {
	unlock, err := g.cfg.Locks.Lock(ctx, Key(name))
	if err != nil {
		return err
	}
	defer unlock()
	st, err := g.reg.Get(name)
	if errors.Is(err, group.ErrNotFound) {
		return nil
	}
	if err != nil || st.Term > term {
		return err
	}
	return g.orphan(st, peer)
}

// orphan notes that a group has ended at a peer that this site is a replica of.
// Its key is held. Nothing else changes.
func (g standings) orphan(st group.State, peer string) error {
	if st.Claimed() != group.RoleReplica || st.Source != peer || !st.Orphaned.IsZero() {
		return nil
	}
	_, err := g.reg.Update(st.Name, func(st *group.State) error {
		st.Orphaned = g.cfg.Clock.Now().UTC()
		return nil
	})
	if err == nil {
		g.cfg.Log.Warn("a group has ended at its primary: its replica stays", "group", st.Name, "primary", peer)
	}
	return err
}

// Recognise implements replication.Groups.
func (g standings) Recognise(ctx context.Context, peer string, a replication.Announcement) error {
	st, err := g.reg.Get(a.Group)
	if errors.Is(err, group.ErrNotFound) || err == nil && !isOther(st, a) {
		return nil
	}
	if err != nil {
		return err
	}
	unlock, err := g.cfg.Locks.Lock(ctx, Key(a.Group))
	if err != nil {
		return err
	}
	defer unlock()
	if st, err = g.reg.Get(a.Group); errors.Is(err, group.ErrNotFound) || err == nil && !isOther(st, a) {
		return nil
	}
	if err == nil {
		err = g.orphan(st, peer)
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("site %s has a group %s with %d volumes, none of which is announced: remove it there, or give this one another name: %w",
		g.cfg.Site, a.Group, len(st.Members), replication.ErrOtherGroup)
}

// isOther reports whether an announced group is not the one that this site has
// under its name: no volume of the one is in the other, nor was.
func isOther(st group.State, a replication.Announcement) bool {
	if len(st.Members) == 0 || len(a.Members) == 0 {
		return false
	}
	isKnown := func(m replication.Member) bool {
		return slices.Contains(st.Members, m.Volume) || st.IsDeleted(m.Volume)
	}
	isDeleted := func(id journal.VolumeID) bool { return slices.Contains(a.Deleted, id) }
	return !slices.ContainsFunc(a.Members, isKnown) && !slices.ContainsFunc(st.Members, isDeleted)
}
