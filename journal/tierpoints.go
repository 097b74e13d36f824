package journal

import (
	"iter"
	"slices"
	"time"
)

// TierPoints is a tier of a history with the points that are of its age at a moment.
type TierPoints struct {
	Tier             // Interval 0 where there is a window alone: it keeps every point
	Points int       // of the last tier also those beyond it, which pins keep
	Oldest time.Time // of them; zero without one
}

// CountByTier counts points, given by their times in any order, by the tier that each is
// in at now, the youngest tier first. Without a history there is one tier, the window.
// Where nothing was written for a time, points have aged less than clocks say; see ageing.go.
func CountByTier(h History, window time.Duration, now time.Time, points iter.Seq[time.Time]) []TierPoints {
	times := slices.SortedFunc(points, time.Time.Compare)
	ages := ageingOf(times, h.intervalAt, now)
	return countByTier(h, window, &ages, slices.Values(times))
}

func countByTier(h History, window time.Duration, ages *ageing, points iter.Seq[time.Time]) []TierPoints {
	tiers := []TierPoints{{Tier: Tier{Age: window}}}
	if len(h) > 0 {
		tiers = make([]TierPoints, len(h))
		for i, tier := range h {
			tiers[i].Tier = tier
		}
	}
	for at := range points {
		i, age := 0, ages.age(at)
		for i < len(tiers)-1 && age > tiers[i].Age {
			i++
		}
		if t := &tiers[i]; t.Points == 0 || at.Before(t.Oldest) {
			t.Oldest = at
		}
		tiers[i].Points++
	}
	return tiers
}

// PointsByTier counts what CheckpointsIn has of a group, without making it. It looks at
// each checkpoint, and writes wait as long: a millisecond for a hundred thousand.
func (s *Store) PointsByTier(group string) []TierPoints {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ages := s.ageingLocked()
	return countByTier(s.cfg.History, s.cfg.Window, &ages, func(yield func(time.Time) bool) {
		for c := range s.newestFirstLocked() {
			if c.Group == group && !yield(c.Time) {
				return
			}
		}
	})
}
