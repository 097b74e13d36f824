package control

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// What thinning has done to a store reaches the controller.
func TestThinningTravels(t *testing.T) {
	want := journal.ThinningStats{ReadBytes: 1 << 30, WrittenBytes: 1 << 20,
		Tiers: []journal.TierBytes{{Bytes: 1 << 26}, {Interval: time.Minute, Bytes: 1 << 20}, {Interval: math.MaxInt64, Bytes: 5}}}
	got, err := decodeState(encodeState(State{Volume: journal.VolumeID{1}, Store: &StoreState{Thinning: want}}))
	if err != nil || !reflect.DeepEqual(got.Store.Thinning, want) {
		t.Errorf("%+v, %v; want %+v", got.Store, err, want)
	}
	if !got.Store.Thinning.Tiers[2].PinsOnly() {
		t.Error("what is kept for pins alone is not known as that")
	}
}

// So do the points that it has, that it is to keep more than it has room for, and what
// came of that.
func TestPointsAndShortageTravel(t *testing.T) {
	want := StoreState{ShortByBytes: 1 << 30, Space: journal.SpaceStats{Refused: 3, GivenUpBytes: 1 << 26, PointsGivenUp: 2}, Points: []journal.TierPoints{
		{Tier: journal.Tier{Interval: time.Second, Age: time.Hour}, Points: 3600, Oldest: time.Unix(100, 5).UTC()},
		{Tier: journal.Tier{Interval: time.Minute, Age: 24 * time.Hour}},
	}}
	got, err := decodeState(encodeState(State{Volume: journal.VolumeID{1}, Store: &want}))
	if err != nil || !reflect.DeepEqual(got.Store.Points, want.Points) || got.Store.ShortByBytes != want.ShortByBytes || got.Store.Space != want.Space {
		t.Errorf("%+v, %v; want %+v", got.Store, err, want)
	}
}
