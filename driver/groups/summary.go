package groups

import (
	"context"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Summary describes a group without listing its points.
type Summary struct {
	State group.State
	// Newest and Oldest are the ends of its recovery points, pinned ones beyond
	// its window apart; nil: there is none, or none that the members which are open can tell of.
	Newest, Oldest *group.Point
	// Whole: every member is known to hold its history from its beginning, as none
	// of it was given up yet.
	Whole bool
	// Stats of the checkpoints since the group was started; zero on a replica
	// and on a group at rest.
	Stats group.CoordinatorStats
	// Started says whether the group takes checkpoints now, Resting of a primary that
	// nothing of it is in use.
	Started, Resting bool
	// Sending is nil where nothing is replicated from here.
	Sending *replication.Metrics
	// Receiving is nil where nothing is fed from a peer.
	Receiving *Receiving
}

// Receiving is how a replica is fed, by the word of its primary.
type Receiving struct {
	// Heard is when the primary was last heard of; zero: not since Begun, when
	// this process began to listen.
	Heard, Begun time.Time
	// Resting says that the primary announces nothing before the group is used
	// again: its replica had everything then.
	Resting bool
	// Progress of each member, as of Heard; none from a primary that does not
	// tell.
	Progress map[journal.VolumeID]replication.Progress
}

// receiving is how a group's replica is fed; nil for a primary.
func (g *Groups) receiving(st group.State) *Receiving {
	r := g.runningOf(st.Name)
	if st.Role != group.RoleReplica || r == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	out := &Receiving{Heard: r.heard, Begun: r.begun, Resting: st.SourceRests, Progress: map[journal.VolumeID]replication.Progress{}}
	for _, m := range r.announced.Members {
		if m.Progress != nil {
			out.Progress[m.Volume] = *m.Progress
		}
	}
	return out
}

// silence is how long a primary, which announces its groups every second, is not
// heard of before its replica counts as disconnected.
const silence = 5 * replication.DefaultHeartbeat

// SilentSince is since when a primary is silent that should not be; zero: it is
// not.
func (r *Receiving) SilentSince(now time.Time) time.Time {
	last := r.Heard
	if last.IsZero() {
		last = r.Begun
	}
	if r.Resting || now.Sub(last) <= silence {
		return time.Time{}
	}
	return last
}

// spanNumbers is how many checkpoints are looked at at once for one that all
// members hold: rounds that were given up leave numbers without a point.
const spanNumbers = 64

// Summary describes one group; group.ErrNotFound. It asks the members for the
// checkpoints near the ends of their histories, and for more only where they
// have none in common there.
func (g *Groups) Summary(ctx context.Context, name string) (Summary, error) {
	st, err := g.reg.Get(name)
	if err != nil {
		return Summary{}, err
	}
	out := Summary{State: st, Sending: g.Sending(name), Receiving: g.receiving(st), Whole: g.cfg.Members.Whole(st)}
	out.Resting = st.Role == group.RolePrimary && !g.cfg.Members.Serving(st)
	if r := g.runningOf(name); r != nil && r.coord != nil {
		out.Stats, out.Started = r.coord.Stats(), true
	}
	oldest, newest := g.cfg.Members.Ends(st)
	if len(newest) == 0 {
		return out, nil
	}
	if out.Newest, err = g.newestPoint(ctx, st, newest); err == nil && out.Newest != nil {
		out.Oldest, err = g.oldestPoint(ctx, st, oldest, out.Newest)
	}
	return out, err
}

// NewestPoint is the newest recovery point of a group that its members which are open
// can tell of; nil: there is none.
func (g *Groups) NewestPoint(ctx context.Context, name string) (*group.Point, error) {
	st, err := g.reg.Get(name)
	if err != nil {
		return nil, err
	}
	_, newest := g.cfg.Members.Ends(st)
	if len(newest) == 0 {
		return nil, nil
	}
	return g.newestPoint(ctx, st, newest)
}

// newestPoint looks before the ends of the members' histories: behind the last
// point there is none because one of them has ended.
func (g *Groups) newestPoint(ctx context.Context, st group.State, ends []journal.CheckpointNumber) (*group.Point, error) {
	ends = slices.Compact(slices.Sorted(slices.Values(ends)))
	for i, end := range slices.Backward(ends) {
		to := end
		if i == len(ends)-1 {
			to = 0 // what members hold meanwhile is newer
		}
		points, err := g.pointsIn(ctx, st, end-min(spanNumbers, end), to)
		if n := len(points); err != nil || n > 0 {
			return last(points), err
		}
	}
	points, err := g.pointsIn(ctx, st, 0, ends[0])
	return last(points), err
}

func last(points []group.Point) *group.Point {
	if n := len(points); n > 0 {
		return &points[n-1]
	}
	return nil
}

// oldestPoint looks behind the beginnings of the members' histories; newest is
// a point in any case.
func (g *Groups) oldestPoint(ctx context.Context, st group.State, beginnings []journal.CheckpointNumber, newest *group.Point) (*group.Point, error) {
	for _, from := range slices.Compact(slices.Sorted(slices.Values(beginnings))) {
		points, err := g.pointsIn(ctx, st, from, from+spanNumbers)
		if err != nil || len(points) > 0 {
			return first(points, newest), err
		}
	}
	for span := journal.CheckpointNumber(spanNumbers); ; span *= 16 {
		points, err := g.pointsIn(ctx, st, 0, min(span, newest.Checkpoint))
		if err != nil || len(points) > 0 || span >= newest.Checkpoint {
			return first(points, newest), err
		}
	}
}

func first(points []group.Point, otherwise *group.Point) *group.Point {
	if len(points) > 0 {
		return &points[0]
	}
	return otherwise
}
