package adminserver

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/journal"
)

// history describes the tiers of a group's history.
func history(tiers []groups.Tier) []*adminv1.Tier {
	var out []*adminv1.Tier
	for _, tier := range tiers {
		out = append(out, &adminv1.Tier{Interval: interval(tier.Interval), Age: durationpb.New(tier.Age), Points: uint64(tier.Points), Oldest: stamp(tier.Oldest)})
	}
	return out
}

// tierBytes tells what a journal's bytes are of.
func tierBytes(thinning *journal.ThinningStats) []*adminv1.TierBytes {
	var out []*adminv1.TierBytes
	for _, tier := range thinning.Tiers {
		t := &adminv1.TierBytes{PinsOnly: tier.PinsOnly(), Bytes: tier.Bytes}
		if !t.GetPinsOnly() {
			t.Interval = interval(tier.Interval)
		}
		out = append(out, t)
	}
	return out
}

// interval is nil for every point.
func interval(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
