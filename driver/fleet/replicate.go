package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// liftTimeout bounds the calls that take a fence back.
const liftTimeout = 10 * time.Second

// replicator implements groups.Replicator: the controller announces the group,
// and the orders of its members tell their engines where to send.
type replicator struct{ *Fleet }

// Replicate implements groups.Replicator.
func (f replicator) Replicate(st group.State) (groups.Replication, error) {
	to := st.Settings.ReplicateTo
	if to == "" {
		return nil, nil
	}
	peer, ok := f.cfg.Peer(to)
	if !ok {
		f.cfg.Log.Error("group is to be replicated to a site that is no peer of this one", "group", st.Name, "peer", to)
		return nil, nil
	}
	announcer, err := replication.NewAnnouncer(replication.AnnouncerConfig{Group: st.Name, Peer: to, Conn: peer.Conn, Announcements: f.groups,
		Groups: f.groups.Standings(), Clock: f.cfg.Clock, Random: rand.Float64, Log: f.cfg.Log})
	if err != nil {
		return nil, err
	}
	return announcing{f.Fleet, announcer, st.Name, to}, nil
}

// Tell implements groups.Replicator.
func (f replicator) Tell(ctx context.Context, site string, a replication.Announcement) error {
	peer, ok := f.cfg.Peer(site)
	if !ok {
		return fmt.Errorf("site %s is no peer of this one", site)
	}
	return replication.AnnounceOnce(ctx, peer.Conn, site, a)
}

// PeerChanged has the groups that are replicated to a site find it again: it
// has become a peer, is none any more, or has another address.
func (f *Fleet) PeerChanged(ctx context.Context, site string) error {
	var errs []error
	for _, st := range f.groups.States() {
		if st.Role == group.RolePrimary && st.Settings.ReplicateTo == site {
			errs = append(errs, f.groups.Reconnect(ctx, st.Name))
			f.pokeGroup(st.Name) // what rests may have something to send
		}
	}
	return errors.Join(errs...)
}

// announcing implements groups.Replication.
type announcing struct {
	fleet     *Fleet
	announcer *replication.Announcer
	group     string
	peer      string
}

func (a announcing) Run(ctx context.Context) error { return a.announcer.Run(ctx) }

// Metrics puts together what the announcer and the engines say.
func (a announcing) Metrics() replication.Metrics {
	m := a.announcer.Metrics()
	out := replication.Metrics{Group: a.group, Peer: a.peer, Term: m.Term, Announced: m.Announced, LastError: m.LastError}
	for _, v := range a.fleet.inGroup(a.group, false) {
		a.fleet.mu.Lock()
		id, r, answers := v.record.ID, v.state.Replication, v.client != nil
		a.fleet.mu.Unlock()
		volume := replication.VolumeMetrics{Volume: id}
		if r != nil {
			volume.Connected = r.Connected && answers
			volume.LagRecords, volume.LagBytes, volume.LagTime = int64(r.LagRecords), int64(r.LagBytes), r.LagTime
			volume.ImageBytes, volume.ImageSizeBytes = r.ImageBytes, r.ImageSizeBytes
			if r.Error != "" {
				volume.LastError = errors.New(r.Error)
			}
		}
		out.Volumes = append(out.Volumes, volume)
	}
	return out
}

// fencer stops what engines append to a group's replicas.
type fencer struct{ *Fleet }

// Fence implements groups.Fencer: no engine of the group takes records below
// the returned term any more. release lifts that unless a promote followed.
func (f fencer) Fence(ctx context.Context, name string) (term group.Term, release func(), err error) {
	open := func() {}
	if f.holder != nil {
		if open, err = f.holder.Hold(ctx, name); err != nil {
			return 0, nil, err
		}
	}
	f.fencing(name, 1)
	release = func() {
		f.lift(name)
		f.fencing(name, -1)
		open()
	}
	if term, err = f.claimTerm(name); err == nil {
		err = f.onEngines(ctx, name, func(ctx context.Context, c *control.Client) error { return c.Fence(ctx, uint64(term)) })
	}
	if err != nil {
		release()
		return 0, nil, err
	}
	return term, release, nil
}

// fencing counts the promotes of a group that are under way: while one is, no
// engine's fence is lifted by anyone else.
func (f *Fleet) fencing(name string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.promotes[name] += n; f.promotes[name] == 0 {
		delete(f.promotes, name)
	}
}

// lift takes the fences of a group back that no promote followed. An engine that
// cannot be told, or whose fence comes late, is told before long (keepGreeted).
func (f *Fleet) lift(name string) {
	st, err := f.groups.State(name)
	claimed := f.claimedTerm(name)
	if err != nil || st.Term >= claimed {
		return
	}
	ctx, cancel := context.WithTimeout(f.ctx, liftTimeout)
	defer cancel()
	warn := func(err error) {
		if err != nil {
			f.cfg.Log.Warn("fence is not lifted everywhere yet", "group", name, "error", err)
		}
	}
	warn(f.onEngines(ctx, name, func(ctx context.Context, c *control.Client) error {
		warn(c.Lift(ctx, uint64(claimed), uint64(st.Term)))
		return nil // one that cannot be told keeps no other one from it
	}))
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
