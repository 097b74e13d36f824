package group

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/journal"
)

// Operation is a change of every member at once: its members fork, each at its
// target. It is written down before the first fork, so that a crash in the
// middle is finished and not left between two states.
type Operation struct {
	// ID is unique; it is in the reason of the timelines that it makes.
	ID      string
	Kind    OperationKind
	Started time.Time
	Targets map[journal.VolumeID]journal.Position
	// What the group's state becomes when all have forked.
	Role   Role
	Term   Term
	Rewind *Rewind `json:",omitempty"`
	// Fill is set where the members, once they have forked, are filled with what a
	// writable fork holds.
	Fill *Fill `json:",omitempty"`
}

// OperationKind names why members fork.
type OperationKind string

// Kinds of operations.
const (
	OperationRewind   OperationKind = "rewind"
	OperationUndo     OperationKind = "undo"
	OperationFailover OperationKind = "failover"
	// OperationCommitFork makes a writable fork production, and OperationRevert ends
	// one that could not be completed: the members return to where they were.
	OperationCommitFork OperationKind = "commit-fork"
	OperationRevert     OperationKind = "revert"
)

// Forker is a member whose store can be forked and pinned, in this process or
// in another one. Each call is durable on return and may be repeated.
type Forker interface {
	Volume() journal.VolumeID
	// Fork begins a timeline at a position and makes it active, unless the
	// active one was begun for the same reason: an operation's id is in it.
	Fork(ctx context.Context, at journal.Position, reason string) error
	Pin(ctx context.Context, name string, at journal.Position) error
	Unpin(ctx context.Context, name string) error
}

func (o *Operation) reason() string { return string(o.Kind) + " " + o.ID }

const rewindPinPrefix = "rewind:"

// rewindPin names the pins that keep the way back while a rewind is open.
func rewindPin(id string) string { return rewindPinPrefix + id }

// IsRewindPin reports whether a pin keeps the way back of a rewind.
func IsRewindPin(pin string) bool { return strings.HasPrefix(pin, rewindPinPrefix) }

// Needs reports whether the group still needs a pin that a rewind made: that of
// an open rewind, or any while an operation is not finished.
func (s *State) Needs(pin string) bool {
	return s.Pending != nil || s.Rewind != nil && pin == rewindPin(s.Rewind.ID)
}

// Begin writes an operation down, and in the same step what more changes of the
// group's state; more may be nil. ErrBusy if another one is not finished.
func (r *Registry) Begin(name string, op Operation, more func(*State)) error {
	_, err := r.updateWith(name, func(s *State) error {
		if s.Pending != nil && s.Pending.ID != op.ID {
			return fmt.Errorf("%s of group %s: %s %s: %w", op.Kind, name, s.Pending.Kind, s.Pending.ID, ErrBusy)
		}
		s.Pending = &op
		if more != nil {
			more(s)
		}
		return nil
	}, r.begins(&op))
	return err
}

// Finish carries out what is left of a group's pending operation; no error if
// there is none. It may be called again after a crash or an error at any
// point. Members must be all of the group's, and must not be written to. An error
// that matches ErrReverted says that the operation is over and nothing came of it: the
// members are where they were before.
func (r *Registry) Finish(ctx context.Context, name string, members []Forker) (State, error) {
	s, err := r.Get(name)
	if err != nil || s.Pending == nil {
		return s, err
	}
	op := s.Pending
	var g errgroup.Group
	for _, m := range members {
		g.Go(func() error {
			if err := op.forkMember(ctx, m); err != nil {
				return memberError(m.Volume(), err)
			}
			return nil
		})
	}
	err = g.Wait()
	if err == nil {
		err = r.fill(ctx, s)
	}
	if errors.Is(err, ErrUnfillable) {
		return r.revert(ctx, s, members, err)
	}
	if err != nil {
		return s, fmt.Errorf("%s of group %s: %w", op.Kind, name, err)
	}
	closed := s.Rewind
	s, err = r.updateWith(name, func(s *State) error {
		s.Role, s.Rewind, s.Pending = op.Role, op.Rewind, nil
		s.Term = max(s.Term, op.Term)
		return nil
	}, r.ends(op, true))
	if err == nil && closed != nil && (s.Rewind == nil || s.Rewind.ID != closed.ID) {
		// The operation is over all the same: whoever starts the group drops what is left.
		_ = unpinAll(ctx, members, rewindPin(closed.ID))
	}
	return s, err
}

// forkMember forks one member, unless it already did for this operation.
func (o *Operation) forkMember(ctx context.Context, m Forker) error {
	if o.Rewind != nil {
		// Also of one that stays as it is: undo returns it to there.
		if back, ok := o.Rewind.Back[m.Volume()]; ok {
			if err := m.Pin(ctx, rewindPin(o.Rewind.ID), back); err != nil {
				return err
			}
		}
	}
	target, ok := o.Targets[m.Volume()]
	if !ok {
		return nil // joined after the point; it stays as it is
	}
	return m.Fork(ctx, target, o.reason())
}

// CommitRewind gives up the way back of an open rewind. ErrNoRewind.
func (r *Registry) CommitRewind(ctx context.Context, name string, members []Forker) (Rewind, error) {
	s, err := r.Get(name)
	if err != nil {
		return Rewind{}, err
	}
	if s.Pending != nil {
		return Rewind{}, fmt.Errorf("commit rewind of group %s: %s: %w", name, s.Pending.Kind, ErrBusy)
	}
	if s.Rewind == nil {
		return Rewind{}, fmt.Errorf("commit rewind of group %s: %w", name, ErrNoRewind)
	}
	if err := unpinAll(ctx, members, rewindPin(s.Rewind.ID)); err != nil {
		return Rewind{}, err
	}
	_, err = r.Update(name, func(s *State) error { s.Rewind = nil; return nil })
	return *s.Rewind, err
}

func unpinAll(ctx context.Context, members []Forker, pin string) error {
	for _, m := range members {
		if err := m.Unpin(ctx, pin); err != nil {
			return memberError(m.Volume(), err)
		}
	}
	return nil
}
