package site

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
func (s *Site) Failover(ctx context.Context, name, at string, dryRun bool) (Failover, error) {
	began := s.cfg.Clock.Now()
	if _, err := s.reg.Get(name); err != nil {
		return Failover{}, err
	}
	release := func() {}
	if s.fence != nil && !dryRun {
		var err error
		if release, err = s.fence.Fence(ctx, name); err != nil {
			return Failover{}, fmt.Errorf("stop replication into group %s: %w", name, err)
		}
	}
	defer release()
	unlock, err := s.locks.Lock(ctx, groupKey(name))
	if err != nil {
		return Failover{}, err
	}
	defer unlock()
	st, err := s.reg.Get(name)
	if err != nil {
		return Failover{}, err
	}
	if st.Role == group.RolePrimary && s.isSplit(name) {
		return s.reassert(st, dryRun)
	}
	if st.Role == group.RolePrimary {
		return Failover{}, fmt.Errorf("fail over group %s: this site is its primary already (term %d): %w", name, st.Term, group.ErrRole)
	}
	point, err := group.Select(name, s.pointsOf(st), at)
	if err != nil {
		return Failover{}, err
	}
	if err := s.checkUnused(st); err != nil { // left attached when this site was demoted
		return Failover{}, fmt.Errorf("fail over group %s: %w", name, err)
	}
	out := Failover{Point: point, Term: st.Term + 1, RPO: began.Sub(point.ValidUntil)}
	if dryRun {
		return out, nil
	}
	return out, s.promote(ctx, st, point, out.Term)
}

// isSplit reports whether the peer claims the same term: two sites are
// primary, and only a higher term decides.
func (s *Site) isSplit(name string) bool {
	r := s.runningOf(name)
	return r != nil && r.sender != nil && errors.Is(r.sender.Metrics().LastError, replication.ErrSplitBrain)
}

// reassert decides a split brain for this site: its term rises, and the other
// site gives way with the next announcement. Its data stays as it is.
func (s *Site) reassert(st group.State, dryRun bool) (Failover, error) {
	points := s.pointsOf(st)
	if len(points) == 0 {
		return Failover{}, &group.NoPointError{Group: st.Name, Wanted: "latest"}
	}
	out := Failover{Point: points[len(points)-1], Term: st.Term + 1}
	if dryRun {
		return out, nil
	}
	_, err := s.reg.Update(st.Name, func(next *group.State) error { next.Term = out.Term; return nil })
	if err != nil {
		return Failover{}, err
	}
	return out, s.restartGroup(st.Name)
}

// promote forks every member at the point and starts the group as primary.
func (s *Site) promote(ctx context.Context, st group.State, point group.Point, term group.Term) error {
	engines, err := s.enginesOf(st.Members)
	if err != nil {
		return err
	}
	op, err := s.newOperation(group.OperationFailover)
	if err != nil {
		return err
	}
	op.Role, op.Term, op.Targets = group.RolePrimary, term, point.Members
	// The old primary is where the group now has to be replicated to. The term
	// is raised with the intent: nothing of an older one is taken from here on.
	_, err = s.reg.Update(st.Name, func(next *group.State) error {
		next.Term, next.Settings.ReplicateTo = term, st.Source
		return nil
	})
	if err != nil {
		return err
	}
	return s.carryOut(ctx, st, point.Checkpoint, op, engines)
}
