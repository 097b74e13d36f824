package groups

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/group"
)

// StartRewind puts every member of a group back to a recovery point, in place
// and without a copy. Where the group was is kept until CommitRewind, and
// UndoRewind returns there. No device of the group may be open: ErrInUse.
func (g *Groups) StartRewind(ctx context.Context, name, at string, dryRun bool) (group.Rewind, error) {
	var rewind group.Rewind
	release := func() {}
	defer func() { release() }()
	err := g.fork(ctx, name, group.OperationRewind, dryRun, func(st group.State, op *group.Operation) error {
		if st.Rewind != nil {
			return fmt.Errorf("rewind group %s: to checkpoint %d since %s; undo or commit it first: %w",
				name, st.Rewind.To.Checkpoint, st.Rewind.Started.Format(time.RFC3339), group.ErrRewindOpen)
		}
		var to group.Point
		var err error
		if to, release, err = g.Hold(ctx, name, at, ""); err != nil {
			return err
		}
		to.Left = false // once the group is there
		rewind = group.Rewind{ID: op.ID, Started: op.Started, To: to}
		op.Targets, op.Rewind = to.Members, &rewind
		return nil
	}, func() error {
		from, _, err := g.take(ctx, name)
		rewind.From, rewind.Back = from, from.Members
		return err
	})
	return rewind, err
}

// UndoRewind returns the group to where it was before the rewind. What was
// written since is left behind on a timeline of its own. It returns where the
// group is now.
func (g *Groups) UndoRewind(ctx context.Context, name string, dryRun bool) (group.Point, error) {
	var back group.Point
	err := g.fork(ctx, name, group.OperationUndo, dryRun, func(st group.State, op *group.Operation) error {
		if st.Rewind == nil {
			return fmt.Errorf("undo rewind of group %s: %w", name, group.ErrNoRewind)
		}
		back = st.Rewind.From
		op.Targets = st.Rewind.Back
		return nil
	}, nil)
	return back, err
}

// CommitRewind makes a rewind final: the way back is given up.
func (g *Groups) CommitRewind(ctx context.Context, name string, dryRun bool) (group.Point, error) {
	unlock, err := g.cfg.Locks.Lock(ctx, Key(name))
	if err != nil {
		return group.Point{}, err
	}
	defer unlock()
	st, err := g.reg.Get(name)
	if err != nil {
		return group.Point{}, err
	}
	if st.Rewind == nil {
		return group.Point{}, fmt.Errorf("commit rewind of group %s: %w", name, group.ErrNoRewind)
	}
	if dryRun {
		return st.Rewind.To, nil
	}
	members, err := g.forkers(st.Members)
	if err != nil {
		return group.Point{}, err
	}
	rewind, err := g.reg.CommitRewind(ctx, name, members)
	return rewind.To, err
}

// fork runs an operation that forks every member of a primary group, with the
// group's key held: plan decides where to and changes nothing; begin, if any,
// completes the operation once nobody has anything of the group's content.
func (g *Groups) fork(ctx context.Context, name string, kind group.OperationKind, dryRun bool, plan func(group.State, *group.Operation) error, begin func() error) error {
	unlock, err := g.cfg.Locks.Lock(ctx, Key(name))
	if err != nil {
		return err
	}
	defer unlock()
	st, err := g.reg.Get(name)
	if err != nil {
		return err
	}
	coord, err := g.coordinatorOf(name)
	if err != nil {
		return err
	}
	members, err := g.forkers(st.Members)
	if err != nil {
		return err
	}
	op, err := g.newOperation(kind)
	if err != nil {
		return err
	}
	op.Role, op.Term = st.Role, st.Term
	// A wrong point, or nothing to undo, is told before anybody has to unmount.
	if err := plan(st, &op); err != nil {
		return err
	}
	if dryRun && g.cfg.StopsUsers {
		return nil
	}
	if dryRun {
		if err := g.checkUnused(ctx, st); err != nil {
			return fmt.Errorf("%s of group %s: %w", kind, name, err)
		}
		return nil
	}
	err = g.withdraw(ctx, st)
	if err == nil && begin != nil {
		err = begin()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s of group %s: %w", kind, name, err), g.giveBack(ctx, name))
	}
	return g.carryOut(ctx, st, op, members, func(st *group.State) {
		st.LastCheckpoint = max(st.LastCheckpoint, coord.Last())
		if op.Fill != nil { // no round is under way any more: the number is free
			st.LastCheckpoint++
			op.Fill.Checkpoint, op.Rewind.To.Checkpoint = st.LastCheckpoint, st.LastCheckpoint
		}
	})
}

// carryOut stops the group, writes the operation down together with what more
// changes of the state, forks the members and starts the group again. A primary's
// members stop writing first: if one cannot, nothing is begun. A replica's take no
// writes, and are told so at the term that the operation gives them: they may be
// fenced below it.
func (g *Groups) carryOut(ctx context.Context, st group.State, op group.Operation, members []group.Forker, more func(*group.State)) error {
	if st.Role == group.RolePrimary {
		if err := g.stopWrites(ctx, st.Members); err != nil {
			return errors.Join(err, g.giveBack(ctx, st.Name))
		}
	}
	if err := g.holdTargets(ctx, &op, st.Members); err != nil {
		return errors.Join(fmt.Errorf("%s of group %s: %w", op.Kind, st.Name, err), g.giveBack(ctx, st.Name))
	}
	g.Stop(st.Name)
	err := g.reg.Begin(st.Name, op, more)
	over := err != nil // nothing was begun, or it is done
	if err == nil && st.Role != group.RolePrimary {
		err = g.stopWrites(ctx, st.Members)
	}
	if err == nil {
		if op.Fill != nil { // it may take long, and goes on for a caller who does not wait any more
			ctx = context.WithoutCancel(ctx)
		}
		if _, err = g.reg.Finish(ctx, st.Name, members); err == nil || errors.Is(err, group.ErrReverted) {
			g.settle(ctx, op.Fill)
			over = true
		}
	}
	if over {
		g.Release(ctx, st.Name, op.ID)
	}
	// Whatever happened, the group goes on: in its new state, or in its old
	// one if nothing was begun. What was begun is finished first, and where that takes
	// long, it is not hurried.
	var failed error
	if op.Fill != nil {
		failed = g.Start(ctx, st.Name)
	} else {
		failed = g.goOn(ctx, st.Name)
	}
	if err != nil && !over && failed == nil && g.isDone(st.Name, &op) {
		g.cfg.Log.Warn("an operation was done at the second attempt", "group", st.Name, "operation", op.Kind, "error", err)
		return nil
	}
	return errors.Join(err, failed)
}

// isDone reports whether a group is as an operation that was begun leaves it.
func (g *Groups) isDone(name string, op *group.Operation) bool {
	st, err := g.reg.Get(name)
	if err != nil || st.Pending != nil || st.Role != op.Role || (st.Rewind == nil) != (op.Rewind == nil) {
		return false
	}
	return op.Rewind == nil || st.Rewind.ID == op.Rewind.ID
}

func (g *Groups) newOperation(kind group.OperationKind) (group.Operation, error) {
	id, err := NewID()
	if err != nil {
		return group.Operation{}, err
	}
	return group.Operation{ID: id, Kind: kind, Started: g.cfg.Clock.Now().UTC()}, nil
}

// NewID draws an id for an operation or a view: 16 hexadecimal digits.
func NewID() (string, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("draw operation id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// checkUnused makes sure that no device of the group is open or mounted: what
// a kernel has cached of a device does not change with it.
func (g *Groups) checkUnused(ctx context.Context, st group.State) error {
	for _, id := range st.Members {
		m, err := g.cfg.Members.Member(id)
		if err != nil {
			continue // without an engine nothing can be attached
		}
		if err := m.CheckUnused(ctx); err != nil {
			return fmt.Errorf("%s: %w", g.cfg.Members.Title(id), err)
		}
	}
	return nil
}

// withdraw has nobody use anything of a group's content until its members are
// writable again.
func (g *Groups) withdraw(ctx context.Context, st group.State) error {
	members, err := g.members(st.Members)
	if err != nil {
		return err
	}
	withdrawing, ctx := errgroup.WithContext(ctx)
	for _, m := range members {
		withdrawing.Go(func() error {
			if err := m.Withdraw(ctx); err != nil {
				return fmt.Errorf("%s: %w", g.cfg.Members.Title(m.Volume()), err)
			}
			return nil
		})
	}
	return withdrawing.Wait()
}

// giveBack ends what withdraw, or stopWrites, began, where nothing came of it. It
// is done also for a caller who does not wait any more.
func (g *Groups) giveBack(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goOnTimeout)
	defer cancel()
	return g.Refresh(ctx, name)
}
