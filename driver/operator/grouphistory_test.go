package operator

import (
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// thinned is a sound group of two members with two tiers.
func thinned() *view {
	v := sound()
	v.summary.State.Settings.History = "1s:1h,1m:24h"
	member := func(n byte, young, old int, oldest time.Duration) fleet.Volume {
		return fleet.Volume{ID: id(n), Connected: true, State: control.State{Store: &control.StoreState{
			Points: []journal.TierPoints{{Tier: journal.Tier{Interval: time.Second, Age: time.Hour}, Points: young, Oldest: testStart.Add(oldest)},
				{Tier: journal.Tier{Interval: time.Minute, Age: 24 * time.Hour}, Points: old, Oldest: testStart.Add(-oldest)}},
			Thinning: journal.ThinningStats{Tiers: []journal.TierBytes{{Bytes: 100}, {Interval: time.Second, Bytes: 10}, {Interval: time.Minute, Bytes: 7}}}}}}
	}
	v.volumes = []fleet.Volume{member(1, 3600, 5, time.Minute), member(2, 3599, 6, 2*time.Minute)}
	return v
}

func TestHistoryIsTold(t *testing.T) {
	v := thinned()
	empty := v1alpha1.ConsistencyGroupStatus{}
	before := statusOf(v, &empty)
	row := func(interval, age v1alpha1.Duration, points int64, oldest time.Duration, bytes int64) v1alpha1.HistoryTier {
		at := microTime(testStart.Add(oldest))
		return v1alpha1.HistoryTier{Interval: interval, Age: age, Points: points, Oldest: &at, Journal: quantity(bytes)}
	}
	expect := func(when string, got []v1alpha1.HistoryTier, want ...v1alpha1.HistoryTier) {
		t.Helper()
		same := func(a, b v1alpha1.HistoryTier) bool {
			return a.Interval == b.Interval && a.Age == b.Age && a.Points == b.Points && a.Oldest.Equal(b.Oldest) && a.Journal.Cmp(*b.Journal) == 0
		}
		if !slices.EqualFunc(got, want, same) {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	both := []v1alpha1.HistoryTier{row("1s", "1h", 3599, 2*time.Minute, 220), row("1m", "1d", 5, -time.Minute, 14)}
	expect("both tell", before.History, both...)

	v.volumes[1].State.Store.Points = nil // of a version that does not count
	expect("one tells", statusOf(v, &before).History, row("1s", "1h", 3600, time.Minute, 220), row("1m", "1d", 5, -time.Minute, 14))

	v = thinned()
	for i := range v.volumes {
		v.volumes[i].Connected, v.volumes[i].State = false, control.State{}
	}
	expect("a controller that has just started, of a group at rest", statusOf(v, &before).History, both...)

	v = thinned()
	v.summary.State.Settings.History = "1s:1h,1m:12h"
	if got := statusOf(v, &before).History; got != nil {
		t.Errorf("before engines have heard of other tiers: %+v", got)
	}

	v = thinned()
	v.volumes[0].State.Store.Points[0].Points, v.volumes[1].State.Store.Points[0].Points = 1, 2
	now := statusOf(v, &before)
	if isUrgent(&before, &now) {
		t.Error("figures of the history are written before the status is due")
	}
	v.summary.State.Settings.History = ""
	for i := range v.volumes {
		v.volumes[i].State.Store.Points = []journal.TierPoints{{Tier: journal.Tier{Age: time.Hour}, Points: 60, Oldest: testStart}}
	}
	expect("a window alone", statusOf(v, &before).History, row("", "1h", 60, 0, 200))
}

// That a backing volume is too small for what is to be kept is told once, of the group,
// and stays told while the engine is away.
func TestSmallBackingIsTold(t *testing.T) {
	v := sound()
	at := statusOf(v, &v1alpha1.ConsistencyGroupStatus{})
	step := func(what, status string, wantNews ...string) {
		t.Helper()
		now := statusOf(v, &at)
		c := meta.FindStatusCondition(now.Conditions, v1alpha1.GroupBackingSufficient)
		if c == nil || string(c.Status) != status {
			t.Fatalf("%s: condition is %+v, want %s", what, c, status)
		}
		if status == "False" && (!strings.Contains(c.Message, "claim data: ") || now.Members[0].ShortBy == nil) {
			t.Errorf("%s: %q does not name the claim, or the member has %v", what, c.Message, now.Members[0].ShortBy)
		}
		var told []string
		for _, n := range newsOf(&at, &now) {
			told = append(told, n.reason)
		}
		if !slices.Equal(told, wantNews) {
			t.Errorf("%s: told %q, want %q", what, told, wantNews)
		}
		if isUrgent(&at, &now) != (len(wantNews) > 0) {
			t.Errorf("%s: urgent %t", what, isUrgent(&at, &now))
		}
		at = now
	}
	store := v.volumes[0].State.Store
	step("sound", "True")
	store.ShortByBytes = gib
	step("too small", "False", "BackingInsufficient")
	store.ShortByBytes = 2 * gib
	step("even smaller", "False")
	v.volumes[0].Connected, v.volumes[0].State = false, control.State{}
	step("engine away", "False")
	v.volumes[0].Connected, v.volumes[0].State.Store = true, &control.StoreState{Horizon: journal.Position{Seq: 7}}
	step("enlarged", "True", "BackingSufficient")
}
