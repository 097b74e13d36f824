package fleet

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
)

// liftTimeout bounds the calls that take a fence back.
const liftTimeout = 10 * time.Second

// fencer stops what engines append to a group's replicas.
type fencer struct{ *Fleet }

// Fence implements groups.Fencer: no engine of the group takes records of the
// present term any more. release lifts that unless a promote followed.
func (f fencer) Fence(ctx context.Context, name string) (release func(), err error) {
	st, err := f.groups.State(name)
	if err != nil {
		return nil, err
	}
	term := uint64(st.Term) + 1
	release = func() { f.lift(name, term) }
	err = f.onEngines(ctx, name, func(ctx context.Context, c *control.Client) error { return c.Fence(ctx, term) })
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// lift takes a fence back if the term that it was for did not come to be. An
// engine that cannot be told is told when it answers again (greet).
func (f *Fleet) lift(name string, term uint64) {
	st, err := f.groups.State(name)
	if err != nil || uint64(st.Term) >= term {
		return
	}
	ctx, cancel := context.WithTimeout(f.ctx, liftTimeout)
	defer cancel()
	if err := f.onEngines(ctx, name, func(ctx context.Context, c *control.Client) error { return c.Lift(ctx) }); err != nil {
		f.cfg.Log.Warn("fence is not lifted everywhere yet", "group", name, "error", err)
	}
}

// onEngines calls fn for the engines of all members at once.
func (f *Fleet) onEngines(ctx context.Context, name string, fn func(context.Context, *control.Client) error) error {
	st, err := f.groups.State(name)
	if err != nil {
		return err
	}
	calling, ctx := errgroup.WithContext(ctx)
	for _, id := range st.Members {
		calling.Go(func() error {
			v, err := f.volumeOf(id)
			if err != nil {
				return err
			}
			client, err := f.connected(ctx, v)
			if err != nil {
				return err
			}
			return fn(ctx, client)
		})
	}
	return calling.Wait()
}

// heed looks at what an engine says of itself: one that a peer refused for a
// stale term makes this site give the group up.
func (f *Fleet) heed(v *volume, s control.State) {
	r := s.Replication
	if r == nil || r.StaleAgainst == 0 {
		return
	}
	name := f.recordOf(v).Group
	st, err := f.groups.State(name)
	if err != nil || st.Role != group.RolePrimary || uint64(st.Term) >= r.StaleAgainst {
		return
	}
	f.joined.Go(func() {
		err := f.groups.Standings().Demote(f.ctx, name, group.Term(r.StaleAgainst), r.Owner)
		if err != nil && !errors.Is(err, context.Canceled) {
			f.cfg.Log.Error("group is not given up yet", "group", name, "error", err)
		}
	})
}
