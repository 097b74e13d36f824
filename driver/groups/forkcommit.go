package groups

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/group"
)

// Forks are a site's writable forks as a group needs them to make one production.
// All methods but those of group.Filler are called with the group's key held.
type Forks interface {
	group.Filler
	// PlanCommit tells what making a fork production takes, and changes nothing.
	// ErrInUse while somebody uses the fork; journal.ErrFull without room.
	PlanCommit(ctx context.Context, st group.State, fork string) (ForkCommit, error)
	// Freeze ends the use of a fork, makes all that was written to it durable and
	// reads it once. It stays so until Thaw, or until an operation that was begun
	// with it is over. With an error nothing is frozen. journal.ErrCorrupt.
	Freeze(ctx context.Context, fork string) error
	// Thaw shows a frozen fork again; nothing if an operation was begun with it.
	Thaw(ctx context.Context, fork string)
	// Settle removes a fork that has become production, and shows one again that
	// has not. What it cannot do is done later.
	Settle(ctx context.Context, fork string)
}

// ForkCommit is a fork that becomes production, or would.
type ForkCommit struct {
	Point        group.Point // the fork's
	PayloadBytes int64       // that are written to the members
	JournalBytes int64       // of room that this takes in their journals
	Rewind       group.Rewind
}

// CommitFork makes a writable fork of a primary group production: its members fork at
// the fork's point, and what was written to the fork is appended, and ended with a
// checkpoint. Then the fork is gone, and the group is as after a rewind: UndoRewind
// returns to where it was, CommitRewind gives that up. Until the operation is written
// down an error leaves everything as it was; behind it, it is completed after a
// restart, or, where it cannot be (group.ErrReverted), everything is as it was
// before. No device of the group may be open, and nobody use the fork: ErrInUse.
// group.ErrRole unless this site is primary; group.ErrRewindOpen; journal.ErrFull;
// journal.ErrCorrupt where the fork is damaged.
func (g *Groups) CommitFork(ctx context.Context, name, fork string, dryRun bool) (ForkCommit, error) {
	var out ForkCommit
	if g.cfg.Forks == nil {
		return out, fmt.Errorf("commit fork %s: this site has no writable forks: %w", fork, group.ErrRole)
	}
	if st, err := g.reg.Get(name); err != nil {
		return out, err
	} else if st.Role != group.RolePrimary {
		return out, fmt.Errorf("commit fork %s: this site is the %s of group %s: fail over to it first: %w", fork, st.Role, name, group.ErrRole)
	}
	var planned *group.Operation
	frozen := false
	defer func() {
		if frozen {
			g.cfg.Forks.Thaw(context.WithoutCancel(ctx), fork)
		}
	}()
	err := g.fork(ctx, name, group.OperationCommitFork, dryRun, func(st group.State, op *group.Operation) (err error) {
		if st.Rewind != nil {
			return fmt.Errorf("commit fork %s of group %s, which is rewound to checkpoint %d since %s; undo or commit that first: %w",
				fork, name, st.Rewind.To.Checkpoint, st.Rewind.Started.Format(time.RFC3339), group.ErrRewindOpen)
		}
		if out, err = g.cfg.Forks.PlanCommit(ctx, st, fork); err != nil || dryRun {
			return err
		}
		if err := g.checkUnused(ctx, st); err != nil { // before the fork is read, which may take long
			return err
		}
		if err := g.cfg.Forks.Freeze(ctx, fork); err != nil {
			return err
		}
		frozen = true
		op.Targets, planned = out.Point.Members, op
		return nil
	}, func() error {
		from, _, err := g.take(ctx, name)
		if err != nil {
			return err
		}
		// Behind every checkpoint that a member has: also behind those of one that
		// joined after the fork's point. fork gives it its number.
		fill := &group.Fill{Fork: fork, Time: g.cfg.Clock.Now().UTC()}
		if !fill.Time.After(from.Time) {
			fill.Time = from.Time.Add(time.Millisecond)
		}
		to := group.Point{Time: fill.Time, ValidUntil: fill.Time}
		out.Rewind = group.Rewind{ID: planned.ID, Started: planned.Started, Fork: fork, To: to, From: from, Back: from.Members}
		planned.Fill, planned.Rewind = fill, &out.Rewind
		return nil
	})
	return out, err
}

// settle has a fork dealt with whose operation is over.
func (g *Groups) settle(ctx context.Context, fill *group.Fill) {
	if fill != nil && g.cfg.Forks != nil {
		g.cfg.Forks.Settle(ctx, fill.Fork)
	}
}
