package site

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// Begins implements group.Filler.
func (s commits) Begins(op *group.Operation) group.Saving {
	return s.turn(op.Fill.Fork, ForkCommitting)
}

// Ends implements group.Filler.
func (s commits) Ends(op *group.Operation, completed bool) group.Saving {
	if completed {
		return s.turn(op.Fill.Fork, ForkDiscarding)
	}
	return s.turn(op.Fill.Fork, ForkOpen)
}

// turn has a fork in another state from the moment on at which a transaction commits.
func (s commits) turn(name string, state ForkState) group.Saving {
	f := s.forkOf(name)
	if f == nil {
		return group.Saving{Save: func(kv.Tx) error {
			if state == ForkCommitting {
				return fmt.Errorf("fork %q: %w", name, ErrNoFork)
			}
			return nil
		}}
	}
	s.mu.Lock()
	next := f.record
	s.mu.Unlock()
	next.State = state
	return group.Saving{Save: next.put, Saved: func() {
		s.setFork(f, func() { f.record, f.frozen = next, false })
	}}
}

// Fill implements group.Filler. It ends with the site, and not with its caller. Meanwhile
// nobody can have a device of the group exclusively, as who mounts it has.
func (s commits) Fill(_ context.Context, st group.State) error {
	ctx, fill := s.filling, st.Pending.Fill
	st.Members = s.present(st.Members)
	unlock, err := s.locks.Lock(ctx, forkKey(fill.Fork))
	if err != nil {
		return err
	}
	defer unlock()
	f := s.forkOf(fill.Fork)
	if f == nil {
		return fmt.Errorf("fork %q: %w: %w", fill.Fork, ErrNoFork, group.ErrUnfillable)
	}
	if f.members == nil {
		if err := s.openFork(f); err != nil {
			return s.unfillable(ctx, st, err)
		}
	}
	release, err := s.holdDevices(st.Members)
	if err != nil {
		return s.unfillable(ctx, st, err)
	}
	defer release()
	filling, ctx := errgroup.WithContext(ctx)
	filling.SetLimit(fillers)
	for _, id := range st.Members {
		filling.Go(func() error {
			if err := s.fillMember(ctx, st, f, id); err != nil {
				return fmt.Errorf("%s: %w", s.titleOf(id), err)
			}
			return nil
		})
	}
	return s.unfillable(s.filling, st, filling.Wait())
}

// fillers is how many members are filled at once.
const fillers = 4

// unfillable tells an error that would come again from one that ends with the site's
// next start, or when a member's store is reopened.
func (s commits) unfillable(ctx context.Context, st group.State, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	for _, id := range st.Members {
		eng, failed := s.engineOf(id)
		if failed == nil {
			failed = eng.Store().Err()
		}
		if failed != nil {
			return errors.Join(err, failed)
		}
	}
	return fmt.Errorf("%w: %w", group.ErrUnfillable, err)
}

// fillMember fills one member, unless that was done before, and ends that with the
// operation's checkpoint. One that joined after the fork's point gets this alone.
func (s commits) fillMember(ctx context.Context, st group.State, f *fork, id journal.VolumeID) error {
	eng, err := s.engineOf(id)
	if err != nil {
		return err
	}
	store, fill := eng.Store(), st.Pending.Fill
	if last := store.NewestCheckpoint(); last.Group == st.Name && last.Number == fill.Checkpoint && last.Time.Equal(fill.Time) {
		return nil
	}
	if m := f.members[id]; m != nil {
		d, err := m.store.Difference()
		if err != nil {
			return err
		}
		if err := errors.Join(store.Absorb(ctx, d, f.commit.did), d.Close()); err != nil {
			return err
		}
	}
	c := journal.Checkpoint{Number: fill.Checkpoint, Time: fill.Time, CheckpointInfo: journal.CheckpointInfo{Group: st.Name, Members: st.Members}}
	if _, err := store.Checkpoint(c); err != nil {
		return err
	}
	return store.Flush(ctx)
}

// Settle implements groups.Forks.
func (s commits) Settle(ctx context.Context, name string) {
	ctx = context.WithoutCancel(ctx)
	unlock, err := s.locks.Lock(ctx, forkKey(name))
	if err != nil {
		return
	}
	defer unlock()
	f := s.forkOf(name)
	if f == nil || s.isCommitting(f) {
		return
	}
	f.commit.begin(0)
	switch {
	case f.record.State == ForkDiscarding:
		err = s.removeFork(ctx, f, ForkDiscarding, "")
	case f.record.State == ForkOpen && f.members != nil:
		err = s.showFork(f)
	}
	if err != nil {
		s.cfg.Log.Warn("a fork whose commit is over; the next look at it goes on", "fork", name, "state", f.record.State, "error", err)
	}
}

// abandonCommits opens the forks of a group again whose commits are not to be completed:
// the site has been demoted. The group's key must be held, or nobody else be there yet.
func (s *Site) abandonCommits(ctx context.Context, name string) {
	st, _ := s.groups.State(name) // a group that is not there has nothing pending
	for _, fork := range s.forkNames() {
		f := s.forkOf(fork)
		if f == nil {
			continue
		}
		s.mu.Lock()
		r := f.record
		s.mu.Unlock()
		if r.Group != name || r.State != ForkCommitting || st.Pending != nil && st.Pending.Fill != nil && st.Pending.Fill.Fork == fork {
			continue
		}
		if err := s.abandonCommit(ctx, f); err != nil {
			s.cfg.Log.Warn("a fork whose commit is not to be completed is not open", "fork", fork, "error", err)
		}
	}
}

func (s *Site) abandonCommit(ctx context.Context, f *fork) error {
	unlock, err := s.locks.Lock(ctx, forkKey(f.record.Name))
	if err != nil {
		return err
	}
	defer unlock()
	next := f.record
	next.State = ForkOpen
	if err := s.saveFork(next); err != nil {
		return err
	}
	f.commit.begin(0)
	s.setFork(f, func() { f.record = next })
	if f.members == nil {
		return nil // the next look at the forks opens it
	}
	return s.showFork(f)
}
