package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/journal"
)

// restingAfterRewinds makes a group of two members that is not in use. It was rewound
// to one point twice: of the first one's timeline nothing is kept but its history.
func restingAfterRewinds(t *testing.T, c *cluster, f *fleet.Fleet) {
	t.Helper()
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
		mustAttach(t, f, n+1, "node1")
		write(t, c.device(id(n+1)), 1)
	}
	p := takePoint(t, f, "shop") // of both, which the first one need not be
	for n := range byte(2) {
		write(t, c.device(id(n+1)), 2)
	}
	takePoint(t, f, "shop")
	for n := range byte(2) {
		mustDetach(t, f, n+1)
	}
	release, err := f.Wake(bounded(t), "shop", false)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for range 2 {
		if _, err := f.Groups().StartRewind(bounded(t), "shop", fmt.Sprint(p.Checkpoint), false); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Groups().CommitRewind(bounded(t), "shop", false); err != nil {
			t.Fatal(err)
		}
	}
}

func awaitRest(t *testing.T, c *cluster) {
	t.Helper()
	until(t, "no engine to be left", func() bool { return c.node(id(1)) == "" && c.node(id(2)) == "" })
}

// TestTimelinesOfAGroupThatRests: the engines are started to be asked, tell what the
// rewinds have left, and rest again.
func TestTimelinesOfAGroupThatRests(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	restingAfterRewinds(t, c, f)
	awaitRest(t, c)
	starts := c.started()
	for i, known := range f.Timelines(bounded(t), []journal.VolumeID{id(1), id(2)}) {
		if known.Err != nil || known.Volume != id(byte(i+1)) {
			t.Fatalf("member %d: %s, %v", i+1, known.Volume, known.Err)
		}
		var active, orphans int
		for _, u := range known.Uses {
			if u.Active {
				active++
			}
			if u.Orphaned() {
				orphans++
			}
		}
		if active != 1 || orphans != 1 || known.Horizon.Timeline == 0 {
			t.Errorf("member %d: %d active, %d orphaned, horizon %v in %+v", i+1, active, orphans, known.Horizon, known.Uses)
		}
	}
	if n := c.started(); n != starts+2 {
		t.Errorf("%d engines were started, want both members'", n-starts)
	}
	awaitRest(t, c)
}

// TestTimelinesWithAMemberThatCannotBeAsked: it is told why, and of the others what
// there is.
func TestTimelinesWithAMemberThatCannotBeAsked(t *testing.T) {
	c := newCluster(t)
	noRoom := errors.New("no node has room for the pod")
	c.run = func(_ context.Context, spec fleet.EngineSpec) error {
		if spec.Volume == id(2) {
			return noRoom
		}
		return nil
	}
	f := c.open()
	defer closeFleet(t, f)
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	answers := make(chan []fleet.VolumeTimelines, 1)
	go func() { answers <- f.Timelines(asking, []journal.VolumeID{id(1), id(2), id(3)}) }()
	until(t, "the second member's engine to be known to fail", func() bool {
		v, err := f.Volume(id(2))
		return err == nil && errors.Is(v.Err, noRoom)
	})
	until(t, "the first member's engine to answer", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Connected && v.State.Store != nil
	})
	// The first member has been asked when its engine is let go, and rests.
	until(t, "the first member's engine to be done with", func() bool { return c.node(id(1)) == "" })
	stop()
	known := <-answers
	if known[0].Err != nil || len(known[0].Uses) != 1 {
		t.Errorf("member 1: %+v", known[0])
	}
	if !errors.Is(known[1].Err, fleet.ErrNoEngine) || !errors.Is(known[1].Err, noRoom) {
		t.Errorf("member 2: %v, want ErrNoEngine and why", known[1].Err)
	}
	if !errors.Is(known[2].Err, fleet.ErrNotFound) {
		t.Errorf("a volume that there is not: %v, want ErrNotFound", known[2].Err)
	}
}

// TestWhatIsPinnedIsListedWhenARewindHasLeftIt: engines tell of it, and are sent back there.
func TestWhatIsPinnedIsListedWhenARewindHasLeftIt(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
		mustAttach(t, f, n+1, "node1")
		write(t, c.device(id(n+1)), 1)
	}
	takePoint(t, f, "shop")
	mustPin(t, f, "shop", "before")
	for n := range byte(2) {
		write(t, c.device(id(n+1)), 2)
	}
	mustPin(t, f, "shop", "aside")
	awaitPins(t, f, "shop", "before", "aside")
	for n := range byte(2) {
		mustDetach(t, f, n+1)
	}
	release, err := f.Wake(bounded(t), "shop", false)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	left := func() (left []groups.ListedPoint) {
		t.Helper()
		points, _, err := f.Groups().ListPoints(bounded(t), "shop", time.Time{}, time.Time{}, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(points, func(p groups.ListedPoint) bool { return p.Left == nil || !slices.Contains(p.Pins, "aside") })
	}
	aside, err := f.Groups().Select(bounded(t), "shop", "pin:aside")
	if err != nil || aside.Left || len(left()) != 0 {
		t.Fatalf("before the rewind the point is %+v, and left are %+v: %v", aside, left(), err)
	}
	for _, to := range []string{"before", "aside"} {
		if _, err := f.Groups().StartRewind(bounded(t), "shop", "pin:"+to, false); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Groups().CommitRewind(bounded(t), "shop", false); err != nil {
			t.Fatal(err)
		}
		got := left()
		if to == "aside" {
			if len(got) != 0 {
				t.Errorf("left are %+v, where the group is", got)
			}
			break
		}
		if len(got) != 1 || got[0].Checkpoint != aside.Checkpoint || !maps.Equal(got[0].Left, aside.Members) {
			t.Errorf("left are %+v, want %+v", got, aside)
		}
	}
}
