package groups

import (
	"context"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// Tier is a tier of a group's history with the recovery points that are of its age.
type Tier struct {
	journal.Tier           // Interval 0 where a window alone was chosen: it keeps every point
	Points       int       // listed, pinned ones among them; of the last tier also those beyond it
	Oldest       time.Time // of them; zero without one
}

// Tiers tells of a group's recovery points by the tier that each is in now, the
// youngest first. group.ErrNotFound. Members send outlines of their histories.
func (g *Groups) Tiers(ctx context.Context, name string) ([]Tier, error) {
	st, points, err := g.outline(ctx, name)
	if err != nil {
		return nil, err
	}
	history, err := journal.ParseHistory(st.Settings.History)
	if err != nil {
		return nil, err
	}
	tiers := []Tier{{Tier: journal.Tier{Age: st.Settings.Window}}}
	if len(history) > 0 {
		tiers = make([]Tier, len(history))
		for i, tier := range history {
			tiers[i].Tier = tier
		}
	}
	now, i := g.cfg.Clock.Now(), len(tiers)-1
	for k := range points { // the oldest first
		for i > 0 && now.Sub(points[k].Time) <= tiers[i-1].Age {
			i--
		}
		if tiers[i].Points++; tiers[i].Oldest.IsZero() {
			tiers[i].Oldest = points[k].Time
		}
	}
	return tiers, nil
}
