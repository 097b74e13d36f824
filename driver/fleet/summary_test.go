package fleet_test

import (
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
)

// The ends that are found by looking near them are those of the whole list.
func expectEnds(t *testing.T, f *fleet.Fleet, name string) {
	t.Helper()
	until(t, "the engines to tell of their newest checkpoint", func() bool {
		points, err := f.Groups().Points(bounded(t), name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.Groups().Summary(bounded(t), name)
		if err != nil {
			t.Fatal(err)
		}
		if len(points) == 0 {
			return s.Newest == nil && s.Oldest == nil
		}
		return s.Newest != nil && s.Newest.Checkpoint == points[len(points)-1].Checkpoint &&
			s.Oldest != nil && s.Oldest.Checkpoint == points[0].Checkpoint
	})
}

func TestSummaryHasTheEndsOfTheList(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	expectEnds(t, f, "shop") // nothing runs
	mustAttach(t, f, 1, "node1")
	for range 150 {
		takePoint(t, f, "shop")
	}
	expectEnds(t, f, "shop")
	// A member that came late holds none of the first points, and one that
	// left for another group takes none away.
	mustCreate(t, f, newVolume(2, "shop"))
	mustAttach(t, f, 2, "node1")
	write(t, c.device(id(2)), 1)
	takePoint(t, f, "shop")
	expectEnds(t, f, "shop")
	mustMove(t, f, 1, "bank")
	expectEnds(t, f, "shop")
	expectEnds(t, f, "bank")
	for range 150 {
		takePoint(t, f, "shop")
	}
	mustMove(t, f, 1, "shop")
	write(t, c.device(id(1)), 1)
	takePoint(t, f, "shop")
	expectEnds(t, f, "shop")
}

// That nothing of a history was given up is told of engines that are known, alone.
func TestSummaryKnowsAWholeHistory(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	isWhole := func() bool {
		t.Helper()
		s, err := f.Groups().Summary(bounded(t), "shop")
		if err != nil {
			t.Fatal(err)
		}
		return s.Whole
	}
	mustCreate(t, f, newVolume(1, "shop"))
	if isWhole() {
		t.Error("the history of a volume whose engine never ran is known")
	}
	mustAttach(t, f, 1, "node1")
	takePoint(t, f, "shop")
	until(t, "the engine to tell of its history", isWhole)
}
