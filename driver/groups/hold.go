package groups

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// What was chosen must be there until the operation that it was chosen for is done:
// its members thin each for itself, and one of them may be about to drop it. So they
// hold it meanwhile, in memory. A member that is opened anew holds nothing, and thins
// nothing for ten minutes. A hold that nobody releases, because this process
// died, ends by itself: of what is only chosen after holdFor; of an operation that is
// written down, and that whoever comes back finishes, after begunFor.
const (
	holdFor  = time.Hour
	begunFor = 24 * time.Hour
	// holdAttempts is how often a point is chosen of which then some member has
	// dropped its part.
	holdAttempts = 3
	// releaseTimeout bounds how long members may take to let go.
	releaseTimeout = 5 * time.Second
)

// Hold is Select, and has the members hold the point, by the name of whoever needs it
// or under one of its own, until release or Release, or for an hour. release is never nil. What
// some member has dropped is not to be had: a *group.NoPointError says what is.
func (g *Groups) Hold(ctx context.Context, name, at, by string) (point group.Point, release func(), err error) {
	if by == "" {
		if by, err = NewID(); err != nil {
			return group.Point{}, func() {}, err
		}
	}
	release = func() { g.Release(ctx, name, by) }
	for range holdAttempts {
		if point, err = g.Select(ctx, name, at); err != nil {
			return group.Point{}, func() {}, err
		}
		if err = g.holdAll(ctx, point.Members, point.Checkpoint, by, holdFor); !isGone(err) {
			break
		}
	}
	if err != nil {
		release()
		return group.Point{}, func() {}, fmt.Errorf("hold recovery point %d of group %s: %w", point.Checkpoint, name, err)
	}
	return point, release, nil
}

// isGone reports whether a member has dropped what it was to hold.
func isGone(err error) bool {
	return errors.Is(err, journal.ErrHorizon) || errors.Is(err, journal.ErrUnknownPosition)
}

// holdAll has members hold positions, all of them or an error; with a number other than 0 their
// parts of that checkpoint. One that cannot does not keep the others from it.
func (g *Groups) holdAll(ctx context.Context, at map[journal.VolumeID]journal.Position, number journal.CheckpointNumber, by string, d time.Duration) error {
	var holding errgroup.Group
	for id, pos := range at {
		holding.Go(func() error {
			m, err := g.cfg.Members.Member(id)
			if err == nil {
				err = m.Hold(ctx, by, pos, number, d)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", g.cfg.Members.Title(id), err)
			}
			return nil
		})
	}
	return holding.Wait()
}

// Release ends what the members of a group hold by a name. It is done also for a
// caller who does not wait any more; what cannot be told ends by itself.
func (g *Groups) Release(ctx context.Context, name, by string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	st, err := g.reg.Get(name)
	if err != nil {
		st = group.State{Name: name} // it may have ended: see Points
	}
	g.cfg.Members.Release(ctx, st, by)
}

// holdTargets has the members of an operation hold what they are to fork at. A volume
// that a target names and that is no member any more does not fork, and may be gone.
func (g *Groups) holdTargets(ctx context.Context, op *group.Operation, ids []journal.VolumeID) error {
	at := map[journal.VolumeID]journal.Position{}
	for _, id := range ids {
		if target, ok := op.Targets[id]; ok {
			at[id] = target
		}
	}
	return g.holdAll(ctx, at, 0, op.ID, begunFor) // it forks there, whether that is a point still or not
}
