package adminserver

import (
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/journal"
)

func TestHistoryIsTold(t *testing.T) {
	oldest := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	tiers := history([]groups.Tier{
		{Tier: journal.Tier{Age: time.Hour}, Points: 5, Oldest: oldest},
		{Tier: journal.Tier{Interval: time.Minute, Age: 2 * time.Hour}},
	})
	want := []*adminv1.Tier{
		{Age: durationpb.New(time.Hour), Points: 5, Oldest: timestamppb.New(oldest)},
		{Interval: durationpb.New(time.Minute), Age: durationpb.New(2 * time.Hour)},
	}
	for i := range want {
		if len(tiers) != len(want) || !proto.Equal(tiers[i], want[i]) {
			t.Fatalf("tiers are %v, want %v", tiers, want)
		}
	}
	parts := tierBytes(&journal.ThinningStats{Tiers: []journal.TierBytes{{Bytes: 1}, {Interval: time.Minute, Bytes: 2}, {Interval: math.MaxInt64, Bytes: 3}}})
	wantParts := []*adminv1.TierBytes{{Bytes: 1}, {Interval: durationpb.New(time.Minute), Bytes: 2}, {PinsOnly: true, Bytes: 3}}
	for i := range wantParts {
		if len(parts) != len(wantParts) || !proto.Equal(parts[i], wantParts[i]) {
			t.Fatalf("parts are %v, want %v", parts, wantParts)
		}
	}
}
