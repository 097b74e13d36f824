package groups

import (
	"context"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// Tier is a tier of a group's history with the recovery points that are of its age:
// those listed, pinned ones among them.
type Tier = journal.TierPoints

// Tiers tells of a group's recovery points by the tier that each is in now, the
// youngest first. group.ErrNotFound. Members send outlines of their histories.
func (g *Groups) Tiers(ctx context.Context, name string) ([]Tier, error) {
	st, points, _, err := g.outline(ctx, name)
	if err != nil {
		return nil, err
	}
	history, err := journal.ParseHistory(st.Settings.History)
	if err != nil {
		return nil, err
	}
	return journal.CountByTier(history, st.Settings.Window, g.cfg.Clock.Now(), func(yield func(time.Time) bool) {
		for i := range points {
			if !yield(points[i].Time) {
				return
			}
		}
	}), nil
}
