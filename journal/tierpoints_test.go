package journal

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestCountByTier(t *testing.T) {
	now := worldStart.Add(30 * 24 * time.Hour)
	ago := func(ages ...time.Duration) (times []time.Time) {
		for _, age := range ages {
			times = append(times, now.Add(-age))
		}
		return times
	}
	history := History{{time.Second, time.Minute}, {time.Minute, time.Hour}}
	for _, tt := range []struct {
		name    string
		history History
		ages    []time.Duration
		want    string // points and the age of the oldest, of each tier
	}{
		{"none", history, nil, "0 -, 0 -"},
		{"by age, in any order", history, []time.Duration{time.Hour, 0, 2 * time.Minute, time.Second}, "2 1s, 2 1h0m0s"},
		{"at a tier's end", history, []time.Duration{time.Minute, time.Minute + 1}, "1 1m0s, 1 1m0.000000001s"},
		{"beyond all of them", history, []time.Duration{2 * time.Hour}, "0 -, 1 2h0m0s"},
		{"of a clock that is ahead", history, []time.Duration{-time.Second}, "1 -1s, 0 -"},
		{"a window alone", nil, []time.Duration{time.Second, 5 * time.Hour}, "2 5h0m0s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			for _, tier := range CountByTier(tt.history, time.Hour, now, slices.Values(ago(tt.ages...))) {
				oldest := "-"
				if !tier.Oldest.IsZero() {
					oldest = now.Sub(tier.Oldest).String()
				}
				got += fmt.Sprintf(", %d %s", tier.Points, oldest)
			}
			if got != ", "+tt.want {
				t.Errorf("counted %q, want %q", got, tt.want)
			}
		})
	}
	if tiers := CountByTier(nil, time.Hour, now, slices.Values(ago())); tiers[0].Interval != 0 || tiers[0].Age != time.Hour {
		t.Errorf("a window alone is %+v", tiers[0])
	}
}

// TestRestsAreCountedByTheIntervalOfTheirTier: two hours without a point are a rest, of which one hour counts, where
// a point is kept of every minute, and none where one of every hour is.
func TestRestsAreCountedByTheIntervalOfTheirTier(t *testing.T) {
	now := worldStart.Add(30 * 24 * time.Hour)
	history := History{{0, time.Hour}, {time.Minute, 24 * time.Hour}, {time.Hour, 7 * 24 * time.Hour}}
	var times []time.Time
	for i := range 40 {
		times = append(times, now.Add(-time.Minute-time.Duration(i)*2*time.Hour))
	}
	// An hour for each of the first 23, and from a day on two.
	want := []int{1, 23, 16}
	tiers := CountByTier(history, 7*24*time.Hour, now, slices.Values(times))
	for i, tier := range tiers {
		if tier.Points != want[i] {
			t.Errorf("tier of %s has %d points, want %d", tier.Interval, tier.Points, want[i])
		}
	}
	last := now.Add(-time.Minute - 39*2*time.Hour)
	if !tiers[2].Oldest.Equal(last) {
		t.Errorf("the oldest is of %s, want %s", tiers[2].Oldest, last)
	}
}
