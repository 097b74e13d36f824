package groups

import (
	"fmt"
	"time"
)

// aheadSlack is how far the clocks of two sites may differ without a word.
const aheadSlack = time.Minute

// PointsAhead says that the group's newest point is of a time that is still to come at
// now, and what that means; empty: it is not. A clock was ahead, here and then set right,
// or is still, at the other site: the times of points rise all the same, hardly, until the
// clock has caught up, and whoever names one by its time gets one of before.
func (s *Summary) PointsAhead(now time.Time) string {
	if s.Newest == nil {
		return ""
	}
	ahead := s.Newest.Time.Sub(now)
	if ahead <= aheadSlack {
		return ""
	}
	unit := time.Minute // so that the text does not change all the time
	if ahead > time.Hour {
		unit = time.Hour
	}
	return fmt.Sprintf("the newest recovery point is of a time that is some %s ahead of this site's clock: a clock was ahead, or is; until it has caught up, name points by number and not by time, "+
		"and do not rely on ages; see to the clocks of the sites", ahead.Round(unit))
}
