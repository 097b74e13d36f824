package groups

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// ErrUnconfirmed means that a term was to be raised without a promotion, and that the
// peer does not say that this site is the primary still. The call may be repeated.
var ErrUnconfirmed = errors.New("the other site does not confirm that this one is the primary")

// Move is a volume that goes from one group to another.
type Move struct {
	Volume   journal.VolumeID
	From, To string
	// Settings of To, if it does not exist yet.
	Settings group.Settings
	// Term is the highest that the volume was given orders with: To's term is
	// raised to it, because the volume refuses a lower one.
	Term group.Term
	// Commit calls commit once, with what else is to be saved in the same
	// transaction, and returns its error.
	Commit func(commit func(save func(kv.Tx) error) error) error
}

// Move takes a volume out of a group and makes it a member of another one, in
// one commit. Its device may be in use: nothing waits but a checkpoint round.
// What either group holds of the past stays. The keys of both groups must be
// held. group.ErrRole unless this site is primary for both, group.ErrRewindOpen
// while one has a rewind that is neither undone nor committed,
// group.ErrBusy while one has an operation to finish, and ErrUnconfirmed.
func (g *Groups) Move(ctx context.Context, m Move) error {
	err := g.mayMove(m)
	if err == nil {
		err = g.confirm(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("move %s from group %s to group %s: %w", g.cfg.Members.Title(m.Volume), m.From, m.To, err)
	}
	// No round of the old group has the volume from here on: its checkpoints
	// of the new one come behind them.
	last, err := g.exclude(ctx, m.From, m.Volume)
	if err != nil {
		return err
	}
	err = m.Commit(func(save func(kv.Tx) error) error {
		return g.reg.Move(m.From, m.To, func(from, to *group.State) error {
			if to.Role == "" {
				to.Role, to.Settings = group.RolePrimary, m.Settings
				to.LastCheckpoint = g.lastOf(m.To, m.Volume)
			}
			to.Term = max(to.Term, m.Term, 1)
			to.LastCheckpoint = max(to.LastCheckpoint, from.LastCheckpoint, last)
			from.Members = slices.DeleteFunc(from.Members, func(id journal.VolumeID) bool { return id == m.Volume })
			if !slices.Contains(to.Members, m.Volume) {
				to.Members = append(to.Members, m.Volume)
				slices.SortFunc(to.Members, func(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) })
				to.MadeAgain(m.Volume) // as in Join
			}
			return nil
		}, save)
	})
	if _, gone := g.reg.Get(m.From); errors.Is(gone, group.ErrNotFound) {
		g.Stop(m.From)
	} else {
		err = errors.Join(err, g.Refresh(ctx, m.From)) // also one that was not left after all
	}
	return errors.Join(err, g.Refresh(ctx, m.To))
}

// mayMove checks that neither group is in the midst of something.
func (g *Groups) mayMove(m Move) error {
	for _, name := range []string{m.From, m.To} {
		st, err := g.reg.Get(name)
		switch {
		case errors.Is(err, group.ErrNotFound) && name == m.To:
		case err != nil:
			return err
		case st.Role != group.RolePrimary:
			return fmt.Errorf("this site is the %s of group %s: %w", st.Role, name, group.ErrRole)
		case st.Pending != nil:
			return fmt.Errorf("%s of group %s: %w", st.Pending.Kind, name, group.ErrBusy)
		case st.Rewind != nil:
			return fmt.Errorf("group %s: undo or commit it first: %w", name, group.ErrRewindOpen)
		}
	}
	return nil
}

// confirm has peers accept both groups as they are, as far as the move raises a term: the group's that the
// volume joins, or that which the volume has with the one that it leaves. Nobody was promoted to the
// higher term, so that a peer which had been promoted to a lower one would give way to it.
func (g *Groups) confirm(ctx context.Context, m Move) error {
	to, err := g.reg.Get(m.To)
	if err != nil { // it is made, at the volume's term
		return nil
	}
	from, err := g.reg.Get(m.From)
	if err != nil {
		return err
	}
	for _, st := range []group.State{from, to} {
		peer, raised := st.Settings.ReplicateTo, max(to.Term, m.Term)
		if peer == "" || st.Term >= raised {
			continue
		}
		a, err := g.Announcement(ctx, st.Name)
		if err != nil {
			return err
		}
		r := g.runningOf(st.Name)
		if a.Resting = r == nil || r.coord == nil; a.Resting {
			a.NewestCheckpoint = st.LastCheckpoint
		}
		if err := g.cfg.Replicator.Tell(ctx, peer, a); err != nil {
			return fmt.Errorf("group %s has term %d here, which is less than the %d that this raises: %w: site %s: %w", st.Name, st.Term, raised, ErrUnconfirmed, peer, err)
		}
	}
	return nil
}

// exclude has a group take its checkpoints without one of its members, and
// returns the number of the newest one.
func (g *Groups) exclude(ctx context.Context, name string, id journal.VolumeID) (journal.CheckpointNumber, error) {
	st, err := g.reg.Get(name)
	r := g.runningOf(name)
	if err != nil || r == nil || r.coord == nil {
		return 0, nil
	}
	st.Members = slices.DeleteFunc(st.Members, func(member journal.VolumeID) bool { return member == id })
	if err := g.admit(ctx, r.coord, st); err != nil {
		return 0, err
	}
	return r.coord.Last(), nil
}
