package groups

import (
	"context"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// Group describes a group of the site at one moment.
type Group struct {
	State  group.State
	Points []group.Point // oldest first
	// Stats of the checkpoints since the group was started; zero on a replica.
	Stats group.CoordinatorStats
	// Sending is nil where nothing is replicated from here.
	Sending *replication.Metrics
	// Receiving is nil where nothing is fed from a peer.
	Receiving *Receiving
	// Resting says of a primary that nothing of it is in use.
	Resting bool
}

// AchievedWindow is how far back the group can be opened at a moment.
func (g *Group) AchievedWindow(now time.Time) time.Duration {
	if len(g.Points) == 0 {
		return 0
	}
	return now.Sub(g.Points[0].Time)
}

// Group describes one group; group.ErrNotFound.
func (g *Groups) Group(ctx context.Context, name string) (Group, error) {
	st, err := g.reg.Get(name)
	if err != nil {
		return Group{}, err
	}
	out := Group{State: st}
	if out.Points, err = g.pointsOf(ctx, st); err != nil {
		return Group{}, err
	}
	out.Sending, out.Receiving = g.Sending(name), g.receiving(st)
	out.Resting = st.Role == group.RolePrimary && !g.cfg.Members.Serving(st)
	if r := g.runningOf(name); r != nil && r.coord != nil {
		out.Stats = r.coord.Stats()
	}
	return out, nil
}

// Sending tells how a group's replication from here stands; nil where there
// is none.
func (g *Groups) Sending(name string) *replication.Metrics {
	r := g.runningOf(name)
	if r == nil || r.replication == nil {
		return nil
	}
	m := r.replication.Metrics()
	return &m
}

// Groups names all groups, ascending.
func (g *Groups) Groups() []string {
	var names []string
	for _, st := range g.reg.List() {
		names = append(names, st.Name)
	}
	return names
}
