package groups

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// Failover is the outcome of making this site primary.
type Failover struct {
	Point group.Point
	Term  group.Term
	// RPO is the age of the point when the failover began.
	RPO time.Duration
}

// Failover makes this site primary for a group at a recovery point that it
// holds. It never waits for the other site. Replication then runs the other
// way, as soon as the old primary comes back.
func (g *Groups) Failover(ctx context.Context, name, at string, dryRun bool) (Failover, error) {
	began := g.cfg.Clock.Now()
	if _, err := g.reg.Get(name); err != nil {
		return Failover{}, err
	}
	var least group.Term
	if !dryRun {
		term, release, err := g.fenceAt(ctx, name)
		if err != nil {
			return Failover{}, err
		}
		defer release()
		least = term
	}
	unlock, err := g.cfg.Locks.Lock(ctx, Key(name))
	if err != nil {
		return Failover{}, err
	}
	defer unlock()
	st, err := g.reg.Get(name)
	if err != nil {
		return Failover{}, err
	}
	if st.Role == group.RolePrimary && g.isSplit(name) {
		return g.reassert(ctx, st, max(st.Term+1, least), dryRun)
	}
	if st.Role == group.RolePrimary {
		return Failover{}, fmt.Errorf("fail over group %s: this site is its primary already (term %d): %w", name, st.Term, group.ErrRole)
	}
	point, release, err := g.Hold(ctx, name, at, "")
	if err != nil {
		return Failover{}, err
	}
	defer release()
	if err := g.checkUnused(ctx, st); err != nil { // left attached when this site was demoted
		return Failover{}, fmt.Errorf("fail over group %s: %w", name, err)
	}
	point.Left = false // once the group is there
	out := Failover{Point: point, Term: max(st.Term+1, least), RPO: began.Sub(point.ValidUntil)}
	if dryRun {
		return out, nil
	}
	// Nobody is to have anything of what the members hold until they have forked.
	if err = g.withdraw(ctx, st); err != nil {
		err = fmt.Errorf("fail over group %s: %w", name, err)
	} else {
		err = g.promote(ctx, st, point, out.Term)
	}
	if now, gone := g.reg.Get(name); err != nil && gone == nil && now.Claimed() != group.RolePrimary {
		g.cfg.Members.GiveBack(st.Members)
	}
	return out, err
}

// Pause stops what replication appends to a group in this process, until release, and leaves
// what is incomplete as it is: for who changes no more than how its stores are open. Take it
// before any key: see docs/concurrency.md.
func (g *Groups) Pause(ctx context.Context, name string) (release func(), err error) {
	near, ok := g.fence.(oneProcess)
	if !ok { // nothing is fenced, or each engine looks after its own store
		return func() {}, nil
	}
	if release, err = near.Pause(ctx, name); err != nil {
		return nil, fmt.Errorf("pause replication into group %s: %w", name, err)
	}
	return release, nil
}

// fenceAt stops what replication appends to a group, until release, and returns the lowest term
// that a promote may use. Take it before any key.
func (g *Groups) fenceAt(ctx context.Context, name string) (term group.Term, release func(), err error) {
	if g.fence == nil {
		return 0, func() {}, nil
	}
	if term, release, err = g.fence.Fence(ctx, name); err != nil {
		return 0, nil, fmt.Errorf("stop replication into group %s: %w", name, err)
	}
	return term, release, nil
}

// isSplit reports whether the peer claims the same term: two sites are
// primary, and only a higher term decides.
func (g *Groups) isSplit(name string) bool {
	r := g.runningOf(name)
	return r != nil && r.replication != nil && errors.Is(r.replication.Metrics().LastError, replication.ErrSplitBrain)
}

// reassert decides a split brain for this site: its term rises, and the other
// site gives way with the next announcement. Its data stays as it is.
func (g *Groups) reassert(ctx context.Context, st group.State, term group.Term, dryRun bool) (Failover, error) {
	points, err := g.pointsOf(ctx, st)
	if err != nil {
		return Failover{}, err
	}
	if len(points) == 0 {
		return Failover{}, &group.NoPointError{Group: st.Name, Wanted: "latest"}
	}
	out := Failover{Point: points[len(points)-1], Term: term}
	if dryRun {
		return out, nil
	}
	_, err = g.reg.Update(st.Name, func(next *group.State) error { next.Term = out.Term; return nil })
	if err != nil {
		return Failover{}, err
	}
	return out, g.restart(ctx, st.Name)
}

// promote forks every member at the point and starts the group as primary.
func (g *Groups) promote(ctx context.Context, st group.State, point group.Point, term group.Term) error {
	members, err := g.forkers(st.Members)
	if err != nil {
		return err
	}
	op, err := g.newOperation(group.OperationFailover)
	if err != nil {
		return err
	}
	op.Role, op.Term, op.Targets = group.RolePrimary, term, point.Members
	// The old primary is where the group now has to be replicated to. The term
	// is raised with the intent, in one step: nothing of an older one is taken
	// from here on, and a site that holds a term of its own is to finish what
	// makes it primary.
	return g.carryOut(ctx, st, op, members, func(next *group.State) {
		next.Term, next.Settings.ReplicateTo, next.Orphaned = term, st.Source, time.Time{}
		if !st.Orphaned.IsZero() { // what has this name there now, if anything, is another group
			next.Settings.ReplicateTo = ""
		}
		next.LastCheckpoint = max(next.LastCheckpoint, point.Checkpoint)
	})
}
