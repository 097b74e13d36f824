package site_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Points are counted by the tier that they are in, and wander with their age.
func TestPointsByTier(t *testing.T) {
	a := newAging(t, vfs.NewMem(), agingPoints)
	type row struct {
		points int
		oldest int // index of the point; -1: none
	}
	expect := func(want ...row) {
		t.Helper()
		tiers, err := a.Groups().Tiers(context.Background(), "shop")
		if err != nil || len(tiers) != len(want) {
			t.Fatalf("%+v, %v; want %d tiers", tiers, err, len(want))
		}
		for _, id := range members {
			if counted := a.store(id).PointsByTier("shop"); !slices.Equal(counted, tiers) {
				t.Errorf("volume %s counts %+v, its group %+v", id, counted, tiers)
			}
			if counted := a.store(id).PointsByTier("bank"); counted[0].Points != 0 {
				t.Errorf("volume %s counts %+v of another group", id, counted)
			}
		}
		for i, w := range want {
			var oldest time.Time
			if w.oldest >= 0 {
				oldest = a.points[w.oldest].Time
			}
			if tiers[i].Points != w.points || !tiers[i].Oldest.Equal(oldest) {
				t.Errorf("tier %d has %d points, the oldest of %v; want %+v", i, tiers[i].Points, tiers[i].Oldest, w)
			}
		}
	}
	expect(row{agingPoints, 0}, row{0, -1})
	a.leaves(a.points[4], time.Second)
	expect(row{15 + a.passed, 5}, row{1, 0}) // the first of its hour
	if _, err := a.Groups().PinPoint(context.Background(), "shop", "kept", number(a.points[2])); err != nil {
		t.Fatal(err)
	}
	expect(row{15 + a.passed, 5}, row{2, 0})
	if _, err := a.Groups().Tiers(context.Background(), "bank"); !errors.Is(err, group.ErrNotFound) {
		t.Errorf("of no group: %v, want ErrNotFound", err)
	}

	// A window alone keeps all that is there, which is everything: the stores thin by
	// themselves, and so far nothing is due.
	st, err := a.Groups().State("shop")
	if err != nil {
		t.Fatal(err)
	}
	settings := group.Settings{CheckpointInterval: 24 * time.Hour, BarrierTimeout: 5 * time.Second, Window: 48 * time.Hour}.WithDefaults()
	if err := a.Groups().Modify(context.Background(), "shop", settings); err != nil {
		t.Fatal(err)
	}
	expect(row{agingPoints + a.passed, 0})
	tiers, err := a.Groups().Tiers(context.Background(), "shop")
	if err != nil || tiers[0].Age != 48*time.Hour || tiers[0].Interval != 0 {
		t.Errorf("a window alone is %+v, %v", tiers, err)
	}
	if err := a.Groups().Modify(context.Background(), "shop", st.Settings); err != nil {
		t.Fatal(err)
	}
	expect(row{15 + a.passed, 5}, row{2, 0})

	a.leaves(a.points[13], time.Second)
	expect(row{6 + a.passed, 14}, row{4, 0}) // three hours, and what is pinned
	for _, id := range members {
		a.thin(id)
	}
	expect(row{6 + a.passed, 14}, row{4, 0})
}
