package site

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// StartRewind puts every member of a group back to a recovery point, in place
// and without a copy. Where the group was is kept until CommitRewind, and
// UndoRewind returns there. No device of the group may be open: ErrInUse.
func (s *Site) StartRewind(ctx context.Context, name, at string, dryRun bool) (group.Rewind, error) {
	var rewind group.Rewind
	err := s.fork(ctx, name, group.OperationRewind, dryRun, func(st group.State, op *group.Operation) error {
		if st.Rewind != nil {
			return fmt.Errorf("rewind group %s: to checkpoint %d since %s; undo or commit it first: %w",
				name, st.Rewind.To.Checkpoint, st.Rewind.Started.Format(time.RFC3339), group.ErrRewindOpen)
		}
		to, err := group.Select(name, s.pointsOf(st), at)
		if err != nil {
			return err
		}
		rewind = group.Rewind{ID: op.ID, Started: op.Started, To: to}
		if !dryRun {
			if rewind.From, _, err = s.take(ctx, name); err != nil {
				return err
			}
			rewind.Back = rewind.From.Members
		}
		op.Targets, op.Rewind = to.Members, &rewind
		return nil
	})
	return rewind, err
}

// UndoRewind returns the group to where it was before the rewind. What was
// written since is left behind on a timeline of its own. It returns where the
// group is now.
func (s *Site) UndoRewind(ctx context.Context, name string, dryRun bool) (group.Point, error) {
	var back group.Point
	err := s.fork(ctx, name, group.OperationUndo, dryRun, func(st group.State, op *group.Operation) error {
		if st.Rewind == nil {
			return fmt.Errorf("undo rewind of group %s: %w", name, group.ErrNoRewind)
		}
		back = st.Rewind.From
		op.Targets = st.Rewind.Back
		return nil
	})
	return back, err
}

// CommitRewind makes a rewind final: the way back is given up.
func (s *Site) CommitRewind(ctx context.Context, name string, dryRun bool) (group.Point, error) {
	unlock, err := s.locks.Lock(ctx, groupKey(name))
	if err != nil {
		return group.Point{}, err
	}
	defer unlock()
	st, err := s.reg.Get(name)
	if err != nil {
		return group.Point{}, err
	}
	if st.Rewind == nil {
		return group.Point{}, fmt.Errorf("commit rewind of group %s: %w", name, group.ErrNoRewind)
	}
	if dryRun {
		return st.Rewind.To, nil
	}
	engines, err := s.enginesOf(st.Members)
	if err != nil {
		return group.Point{}, err
	}
	rewind, err := s.reg.CommitRewind(name, forkers(engines))
	return rewind.To, err
}

// fork runs an operation that forks every member of a primary group: plan
// decides where to, with the group's key held and its devices unused.
func (s *Site) fork(ctx context.Context, name string, kind group.OperationKind, dryRun bool, plan func(group.State, *group.Operation) error) error {
	unlock, err := s.locks.Lock(ctx, groupKey(name))
	if err != nil {
		return err
	}
	defer unlock()
	st, err := s.reg.Get(name)
	if err != nil {
		return err
	}
	coord, err := s.coordinatorOf(name)
	if err != nil {
		return err
	}
	if err := s.checkUnused(st); err != nil {
		return fmt.Errorf("%s of group %s: %w", kind, name, err)
	}
	engines, err := s.enginesOf(st.Members)
	if err != nil {
		return err
	}
	op, err := s.newOperation(kind)
	if err != nil {
		return err
	}
	op.Role, op.Term = st.Role, st.Term
	if err := plan(st, &op); err != nil || dryRun {
		return err
	}
	return s.carryOut(ctx, st, coord.Last(), op, engines)
}

// carryOut stops the group, forks its members and starts it again.
func (s *Site) carryOut(ctx context.Context, st group.State, last journal.CheckpointNumber, op group.Operation, engines []*engine.Engine) error {
	if err := s.stopWrites(ctx, st.Members); err != nil {
		return err
	}
	s.stopGroup(st.Name)
	_, err := s.reg.Update(st.Name, func(st *group.State) error {
		st.LastCheckpoint = max(st.LastCheckpoint, last)
		return nil
	})
	if err == nil {
		err = s.reg.Begin(st.Name, op)
	}
	if err == nil {
		_, err = s.reg.Finish(st.Name, forkers(engines))
	}
	// Whatever happened, the group goes on: in its new state, or in its old
	// one if nothing was begun. What was begun is finished first.
	return errors.Join(err, s.startGroup(st.Name))
}

func (s *Site) newOperation(kind group.OperationKind) (group.Operation, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return group.Operation{}, fmt.Errorf("draw operation id: %w", err)
	}
	return group.Operation{ID: hex.EncodeToString(b[:]), Kind: kind, Started: s.cfg.Clock.Now().UTC()}, nil
}

// checkUnused makes sure that no device of the group is open or mounted: what
// a kernel has cached of a device does not change with it.
func (s *Site) checkUnused(st group.State) error {
	for _, id := range st.Members {
		device, err := s.Device(id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("volume %s: %s is mounted or open: stop the application and unmount it first: %w", id, device, ErrInUse)
		}
		if err != nil {
			return fmt.Errorf("look whether %s is in use: %w", device, err)
		}
		// Cached pages of the device belong to the state that is left.
		err = errors.Join(unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0), f.Close())
		if err != nil {
			return fmt.Errorf("drop cached pages of %s: %w", device, err)
		}
	}
	return nil
}
