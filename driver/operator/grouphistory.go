package operator

import (
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/journal"
)

// historyOf tells of a group's points by tier, from what the members' engines count.
// While none of them tells, it is what was said last.
func historyOf(v *view, old []v1alpha1.HistoryTier) []v1alpha1.HistoryTier {
	settings := v.summary.State.Settings
	history, err := journal.ParseHistory(settings.History)
	if err != nil { // it was checked where it came from
		return nil
	}
	tiers := journal.CountByTier(history, settings.Window, v.now, func(func(time.Time) bool) {})
	told := false
	for i := range v.volumes {
		s := v.volumes[i].State.Store
		if s == nil || !sameTiers(s.Points, tiers) {
			continue // it does not count, or has yet to hear of these settings
		}
		for k := range tiers {
			addMember(&tiers[k], s.Points[k], !told)
		}
		told = true
	}
	switch {
	case told:
		return historyStatus(tiers, v.volumes)
	case isAwake(v):
		return nil
	default:
		return old
	}
}

func sameTiers(a, b []journal.TierPoints) bool {
	return slices.EqualFunc(a, b, func(a, b journal.TierPoints) bool { return a.Tier == b.Tier })
}

// addMember has a tier of a group hold no more than a member does: a point is one that
// all have.
func addMember(t *journal.TierPoints, member journal.TierPoints, first bool) {
	if first || member.Points < t.Points {
		t.Points = member.Points
	}
	if first || member.Oldest.After(t.Oldest) {
		t.Oldest = member.Oldest
	}
	if t.Points == 0 {
		t.Oldest = time.Time{}
	}
}

// historyStatus adds what the tiers take in the members' journals.
func historyStatus(tiers []journal.TierPoints, volumes []fleet.Volume) []v1alpha1.HistoryTier {
	out := make([]v1alpha1.HistoryTier, len(tiers))
	for i, t := range tiers {
		out[i] = v1alpha1.HistoryTier{Age: v1alpha1.DurationOf(t.Age), Points: int64(t.Points), Journal: quantity(journalOf(tiers, i, volumes))}
		if t.Interval > 0 {
			out[i].Interval = v1alpha1.DurationOf(t.Interval)
		}
		if at := microTime(t.Oldest); !t.Oldest.IsZero() {
			out[i].Oldest = &at
		}
	}
	return out
}

// journalOf is what the segments of a tier take in all members' journals, in bytes: the
// first one's are those that are not thinned.
func journalOf(tiers []journal.TierPoints, i int, volumes []fleet.Volume) (bytes int64) {
	for k := range volumes {
		s := volumes[k].State.Store
		if s == nil {
			continue
		}
		for _, part := range s.Thinning.Tiers {
			if part.Interval == tiers[i].Interval || i == 0 && part.Interval == 0 {
				bytes += part.Bytes
			}
		}
	}
	return bytes
}
