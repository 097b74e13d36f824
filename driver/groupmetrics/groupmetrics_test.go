package groupmetrics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

var errSilent = errors.New("a member does not answer")

// told is what a site says of its groups.
type told map[string]groups.Summary

func (t told) Groups() []string { return append(slices.Sorted(maps.Keys(t)), "ended") }

func (t told) Summary(_ context.Context, name string) (groups.Summary, error) {
	s, ok := t[name]
	if !ok {
		return groups.Summary{}, group.ErrNotFound
	}
	if s.Newest == nil {
		return s, errSilent
	}
	return s, nil
}

func TestFiguresOfGroups(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	reaching := func(name string, achieved time.Duration) groups.Summary {
		return groups.Summary{State: group.State{Name: name, Settings: group.Settings{Window: 24 * time.Hour}.WithDefaults()},
			Oldest: &group.Point{Time: now.Add(-achieved)}, Newest: &group.Point{ValidUntil: now.Add(-time.Second)},
			Stats: group.CoordinatorStats{Committed: 7, Idle: 5, Aborted: 2}}
	}
	young, silent := reaching("young", time.Hour), reaching("silent", time.Hour)
	young.Whole = true
	silent.Newest, silent.Oldest = nil, nil
	site := told{"short": reaching("short", time.Hour), "long": reaching("long", 24*time.Hour), "young": young, "silent": silent}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(site, clock.NewManual(now)))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			key := family.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{}
	for name, achieved := range map[string]float64{"short": 3600, "long": 86400, "young": 3600} {
		want["lockstep_group_achieved_window_seconds "+name] = achieved
		want["lockstep_group_oldest_point_timestamp_seconds "+name] = float64(now.Unix()) - achieved
		want["lockstep_group_newest_point_timestamp_seconds "+name] = float64(now.Unix() - 1)
		want["lockstep_group_window_short "+name] = 0
	}
	want["lockstep_group_window_short short"] = 1
	for name := range site { // also the one whose members do not answer
		want["lockstep_group_wanted_window_seconds "+name] = 86400
		for outcome, n := range map[string]float64{"committed": 7, "idle": 5, "aborted": 2} {
			want[fmt.Sprintf("lockstep_group_checkpoints_total %s %s", name, outcome)] = n
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("figures are %v, want %v", got, want)
	}
}
