package enginepod

import (
	"time"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// countEvery is the least time between two counts of a store's points, of which each
// looks at all of them. What reads them is written every 10 s at most.
const countEvery = 5 * time.Second

// pointCount is a count of a store's points, and what it is of.
type pointCount struct {
	store   *journal.Store
	group   string
	window  time.Duration
	history string
	at      time.Time
	tiers   []journal.TierPoints
}

// isOf reports whether a count is of a store under orders, whenever it was made.
func (c *pointCount) isOf(store *journal.Store, o *control.Orders) bool {
	return c.store == store && c.group == o.Group && c.window == o.Window && c.history == o.History
}

// countPointsLocked counts the points of a store by the tiers that it is ordered to keep,
// or returns what was counted a moment ago. mu is held.
func (p *Pod) countPointsLocked(store *journal.Store) []journal.TierPoints {
	o, now := &p.record.Orders, p.cfg.Clock.Now()
	if c := &p.counted; !c.isOf(store, o) || now.Sub(c.at) >= countEvery {
		*c = pointCount{store: store, group: o.Group, window: o.Window, history: o.History, at: now, tiers: store.PointsByTier(o.Group)}
	}
	return p.counted.tiers
}
