package main

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// Tiers are named as `history` names them, and have what all members' segments take.
func TestHistoryTiers(t *testing.T) {
	minute, week := durationpb.New(time.Minute), durationpb.New(7*24*time.Hour)
	m := &adminv1.DescribeGroupResponse{
		History: []*adminv1.Tier{{Age: durationpb.New(90 * time.Minute)}, {Interval: minute, Age: week}},
		Members: []*adminv1.Volume{
			{Tiers: []*adminv1.TierBytes{{Bytes: 1}, {Interval: minute, Bytes: 10}, {PinsOnly: true, Bytes: 100}}},
			{Tiers: []*adminv1.TierBytes{{Bytes: 2}, {Interval: minute, Bytes: 20}, {Interval: durationpb.New(90 * time.Second), Bytes: 1000}, {PinsOnly: true, Bytes: 200}}},
		},
	}
	want := []struct {
		name  string
		bytes int64
	}{{"all:1h30m", 3}, {"1m:7d", 30}, {"1m30s", 1000}, {"pins", 300}}
	tiers := historyTiers(m)
	if len(tiers) != len(want) {
		t.Fatalf("there are %d rows, want %d", len(tiers), len(want))
	}
	for i, w := range want {
		if tiers[i].name() != w.name || tiers[i].journalBytes != w.bytes {
			t.Errorf("row %d is %s with %d bytes, want %+v", i, tiers[i].name(), tiers[i].journalBytes, w)
		}
	}
	m.History = nil // a site of a version before
	if tiers := historyTiers(m); len(tiers) != 0 {
		t.Errorf("without tiers there are %d rows", len(tiers))
	}
}
