package group

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// Fill says what the members of a group are filled with, once they have forked, so
// that a writable fork becomes production.
type Fill struct {
	Fork string
	// Checkpoint and Time are of the checkpoint that ends the filling in every
	// member. They are chosen before the first fork: a member that holds it was
	// filled, and the same point comes of it however often this is repeated.
	Checkpoint journal.CheckpointNumber
	Time       time.Time
}

// Saving is what is saved together with a group's state.
type Saving struct {
	// Save adds to the transaction; nil adds nothing.
	Save func(kv.Tx) error
	// Saved is called when it is durable, before anybody sees the new state, and must
	// not call the registry; nil is not called.
	Saved func()
}

// Filler knows the writable forks of a site.
type Filler interface {
	// Fill fills the members of a group with what the fork of its pending operation
	// holds, and ends that with the operation's checkpoint in every member. Durable
	// on return; it may be called again after an error or a crash at any point.
	// ErrUnfillable where calling it again would not help, short of an error of a
	// member's own store.
	Fill(ctx context.Context, st State) error
	// Begins is what is saved when an operation with a Fill is written down, and
	// Ends when it is over: completed, or with nothing come of it.
	Begins(op *Operation) Saving
	Ends(op *Operation, completed bool) Saving
}

func (r *Registry) begins(op *Operation) Saving {
	if op.Fill == nil || r.Filler == nil {
		return Saving{}
	}
	return r.Filler.Begins(op)
}

func (r *Registry) ends(op *Operation, completed bool) Saving {
	if op.Fill == nil || r.Filler == nil {
		return Saving{}
	}
	return r.Filler.Ends(op, completed)
}

// fill fills the members of a group whose pending operation asks for it.
func (r *Registry) fill(ctx context.Context, s State) error {
	switch {
	case s.Pending.Fill == nil:
		return nil
	case r.Filler == nil:
		return fmt.Errorf("fill group %s from fork %s: this site has no forks: %w", s.Name, s.Pending.Fill.Fork, ErrUnfillable)
	}
	return r.Filler.Fill(ctx, s)
}

// revert replaces a pending operation that cannot be completed by the way back, in
// one step, and carries that out: members return to where they were, and the pins
// that kept it go. Its error matches ErrReverted, or says why the way back was not
// completed; Finish goes on with it then.
func (r *Registry) revert(ctx context.Context, s State, members []Forker, why error) (State, error) {
	op := s.Pending
	why = fmt.Errorf("%s of group %s: %w", op.Kind, s.Name, why)
	back := Operation{ID: op.ID, Kind: OperationRevert, Started: op.Started, Targets: op.Rewind.Back, Role: op.Role, Term: op.Term}
	s, err := r.updateWith(s.Name, func(s *State) error {
		s.Pending, s.Rewind = &back, op.Rewind
		return nil
	}, r.ends(op, false))
	if err == nil {
		s, err = r.Finish(ctx, s.Name, members)
	}
	if err != nil {
		return s, fmt.Errorf("%w; going back: %w", why, err)
	}
	return s, fmt.Errorf("%w: %w", ErrReverted, why)
}
