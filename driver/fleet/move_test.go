package fleet_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

func mustMove(t *testing.T, f *fleet.Fleet, n byte, to string) {
	t.Helper()
	if err := f.MoveVolume(bounded(t), id(n), to, group.Settings{}); err != nil {
		t.Fatal(err)
	}
}

func expectMembers(t *testing.T, f *fleet.Fleet, name string, members ...byte) {
	t.Helper()
	st, err := f.Groups().State(name)
	if err != nil {
		t.Fatal(err)
	}
	var want []journal.VolumeID
	for _, n := range members {
		want = append(want, id(n))
	}
	if !slices.Equal(st.Members, want) {
		t.Errorf("group %s has members %v, want %v", name, st.Members, want)
	}
}

// A volume that is written to changes its group: no write fails or waits for
// more than a round, both groups go on taking points, and what was a point of
// the old group before can still be kept with all its members.
func TestAnAttachedVolumeMovesBetweenGroups(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n, name := range map[byte]string{1: "shop", 2: "shop", 3: "bank"} {
		mustCreate(t, f, newVolume(n, name))
		mustAttach(t, f, n, "node1")
		write(t, c.device(id(n)), 1)
	}
	for range 3 { // the number of the new group's points has to jump
		takePoint(t, f, "shop")
	}
	old := takePoint(t, f, "shop")
	stop, writing := make(chan struct{}), make(chan error, 1)
	go func() {
		p := make([]byte, 512)
		for {
			select {
			case <-stop:
				writing <- nil
				return
			default:
			}
			if err := c.device(id(1)).WriteAt(ctx, p, 4096, false); err != nil {
				writing <- err
				return
			}
		}
	}()
	starts := c.starts
	mustMove(t, f, 1, "bank")
	mustMove(t, f, 1, "bank") // again is nothing
	close(stop)
	if err := <-writing; err != nil {
		t.Fatalf("write during the move: %v", err)
	}
	if c.starts != starts {
		t.Errorf("%d engines were started anew", c.starts-starts)
	}
	expectMembers(t, f, "shop", 2)
	expectMembers(t, f, "bank", 1, 3)
	if p := takePoint(t, f, "bank"); len(p.Members) != 2 || p.Checkpoint <= old.Checkpoint {
		t.Errorf("point of the new group %+v, want both members and a number above %d", p, old.Checkpoint)
	}
	if p := takePoint(t, f, "shop"); len(p.Members) != 1 {
		t.Errorf("point of the old group %+v, want one member", p)
	}
	points, err := f.Groups().Points(bounded(t), "shop")
	if err != nil || !slices.ContainsFunc(points, func(p group.Point) bool { return p.Checkpoint == old.Checkpoint && len(p.Members) == 2 }) {
		t.Errorf("point %d of the time before is gone: %d points, %v", old.Checkpoint, len(points), err)
	}
	if pinned, _, err := f.PinPoint(bounded(t), "shop", "keep", number(old)); err != nil || len(pinned.Members) != 2 {
		t.Errorf("pin of the time before: %+v, %v", pinned, err)
	}
}

// The points of a group that ended with the move of its last member are there
// as long as that volume is, also to the next controller.
func TestPointsOfAnEndedGroupStay(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	mustCreate(t, f, newVolume(1, "data"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 7)
	old := takePoint(t, f, "data")
	write(t, c.device(id(1)), 8)
	mustMove(t, f, 1, "shop")
	if _, err := f.Groups().State("data"); !errors.Is(err, group.ErrNotFound) {
		t.Errorf("the group is left: %v", err)
	}
	closeFleet(t, f)
	c.db = c.db.Clone()
	f = c.open()
	defer closeFleet(t, f)
	pinned, _, err := f.PinPoint(bounded(t), "data", "keep", number(old))
	if err != nil || pinned.Checkpoint != old.Checkpoint {
		t.Fatalf("pin %+v, %v", pinned, err)
	}
	if err := f.UnpinPoint(bounded(t), "data", "keep"); err != nil {
		t.Error(err)
	}
	// Back again, its numbers go on above those of the first time.
	mustMove(t, f, 1, "data")
	write(t, c.device(id(1)), 9)
	if p := takePoint(t, f, "data"); p.Checkpoint <= old.Checkpoint {
		t.Errorf("point %d after %d", p.Checkpoint, old.Checkpoint)
	}
	if _, err := f.Groups().Select(bounded(t), "data", number(old)); err != nil {
		t.Errorf("the point of the first time: %v", err)
	}
}

// The old group's term may be above the new one's, and an engine takes no orders
// of a lower one.
func TestAMoveRaisesTheTermOfTheNewGroup(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	mustCreate(t, f, newVolume(1, "data"))
	mustCreate(t, f, newVolume(2, "shop"))
	mustAttach(t, f, 1, "node1")
	mustAttach(t, f, 2, "node1")
	mustMove(t, f, 1, "high")
	raiseTerm(t, c, f, "high", 9)
	f = c.open()
	defer closeFleet(t, f)
	until(t, "the engine to have the higher term", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Connected && v.State.Term == 9
	})
	mustMove(t, f, 1, "shop")
	st, err := f.Groups().State("shop")
	if err != nil || st.Term != 9 {
		t.Errorf("term %d, %v; want 9", st.Term, err)
	}
	write(t, c.device(id(1)), 3)
	if p := takePoint(t, f, "shop"); len(p.Members) != 2 {
		t.Errorf("point %+v, want both members", p)
	}
}

func TestAMoveIsRefused(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustCreate(t, f, newVolume(2, "bank"))
	release, err := f.Wake(bounded(t), "shop", false)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	takePoint(t, f, "shop")
	if _, err := f.Groups().StartRewind(bounded(t), "shop", "latest", false); err != nil {
		t.Fatal(err)
	}
	for _, n := range []byte{1, 2} {
		to := map[byte]string{1: "bank", 2: "shop"}[n]
		if err := f.MoveVolume(bounded(t), id(n), to, group.Settings{}); !errors.Is(err, group.ErrRewindOpen) {
			t.Errorf("move volume %d to %s while a rewind is open: %v, want ErrRewindOpen", n, to, err)
		}
	}
	if err := f.MoveVolume(bounded(t), id(9), "shop", group.Settings{}); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("move no volume: %v, want ErrNotFound", err)
	}
}

func number(p group.Point) string { return strconv.FormatUint(uint64(p.Checkpoint), 10) }

// raiseTerm gives a group the term that some failovers would have left, and
// ends the controller.
func raiseTerm(t *testing.T, c *cluster, f *fleet.Fleet, name string, term group.Term) {
	t.Helper()
	closeFleet(t, f)
	c.db = c.db.Clone()
	reg, err := group.OpenRegistry(c.db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.Update(name, func(st *group.State) error { st.Term = term; return nil }); err != nil {
		t.Fatal(err)
	}
}

// A volume that is deleted after it has moved does not take the points of its
// old group away.
func TestAVolumeThatMovedAndWasDeletedIsMissedByNoPoint(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
		mustAttach(t, f, n+1, "node1")
		write(t, c.device(id(n+1)), 1)
	}
	old := takePoint(t, f, "shop")
	mustMove(t, f, 1, "bank")
	mustDetach(t, f, 1)
	if err := deleteVolume(t, f, 1); err != nil {
		t.Fatal(err)
	}
	if p, err := f.Groups().Select(bounded(t), "shop", number(old)); err != nil || len(p.Members) != 1 {
		t.Errorf("point %+v, %v; want that of the volume that is left", p, err)
	}
}

// The way back of a rewind is kept, whatever the group does that a member was in
// before.
func TestARewindAfterAMoveCanBeUndone(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
		mustAttach(t, f, n+1, "node1")
		write(t, c.device(id(n+1)), 1)
	}
	mustMove(t, f, 1, "bank")
	to := takePoint(t, f, "bank")
	write(t, c.device(id(1)), 2)
	mustDetach(t, f, 1)
	release, err := f.Wake(bounded(t), "bank", false)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := f.Groups().StartRewind(bounded(t), "bank", number(to), false); err != nil {
		t.Fatal(err)
	}
	if err := f.Groups().Reconnect(bounded(t), "shop"); err != nil { // it starts anew
		t.Fatal(err)
	}
	v, err := f.Volume(id(1))
	if err != nil || len(v.State.Store.Pins) == 0 {
		t.Errorf("the way back is not kept any more: %+v, %v", v.State.Store, err)
	}
	if _, err := f.Groups().UndoRewind(bounded(t), "bank", false); err != nil {
		t.Fatal(err)
	}
	mustAttach(t, f, 1, "node1")
	expect(t, c.device(id(1)), 2)
}

// The engine of a member of a group in use may not come for days. A volume that is to join
// the group does not wait for it for ever: meanwhile it could be neither attached nor
// detached.
func TestAMoveDoesNotWaitForEver(t *testing.T) {
	c := newCluster(t)
	c.moveWait = 50 * time.Millisecond
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "data"))
	mustCreate(t, f, newVolume(2, "shop"))
	mustAttach(t, f, 1, "node1")
	mustAttach(t, f, 2, "node1")
	var away atomic.Bool
	away.Store(true)
	c.mu.Lock()
	c.run = func(_ context.Context, spec fleet.EngineSpec) error {
		if spec.Volume == id(2) && away.Load() {
			return errors.New("its node is away")
		}
		return nil
	}
	c.mu.Unlock()
	c.kill(id(2))
	until(t, "the engine to be away", func() bool {
		v, err := f.Volume(id(2))
		return err == nil && !v.Connected
	})
	limit := bounded(t)
	if err := f.MoveVolume(limit, id(1), "shop", group.Settings{}); !errors.Is(err, fleet.ErrNoEngine) || limit.Err() != nil {
		t.Errorf("move to a group whose engine is away: %v, and its caller has given up: %v; want ErrNoEngine before that", err, limit.Err())
	}
	expectMembers(t, f, "shop", 2)
	mustDetach(t, f, 1)
	mustAttach(t, f, 1, "node1")
	away.Store(false)
	until(t, "the engine to be back", func() bool {
		v, err := f.Volume(id(2))
		return err == nil && v.Connected
	})
	until(t, "the move", func() bool { return f.MoveVolume(bounded(t), id(1), "shop", group.Settings{}) == nil })
	expectMembers(t, f, "shop", 1, 2)
}

// TestDroppingAPinLeavesThatOfTheGroupThatAVolumeIsInNow, and that of the one that it was in: people
// choose the names of pins, and the same one in each group.
func TestDroppingAPinLeavesThatOfTheGroupThatAVolumeIsInNow(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n, name := range map[byte]string{1: "shop", 2: "shop", 3: "bank"} {
		mustCreate(t, f, newVolume(n, name))
		mustAttach(t, f, n, "node1")
		write(t, c.device(id(n)), 1)
	}
	pin := func(name, pin string) {
		t.Helper()
		if _, _, err := f.PinPoint(bounded(t), name, pin, ""); err != nil {
			t.Fatal(err)
		}
	}
	drop := func(name, pin string) {
		t.Helper()
		if err := f.UnpinPoint(bounded(t), name, pin); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		told := f.Timelines(bounded(t), []journal.VolumeID{id(2)})[0]
		if told.Err != nil {
			t.Fatal(told.Err)
		}
		var got []string
		for _, use := range told.Uses {
			got = append(got, use.Pins...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("volume 2 has the pins %q, want %q", got, want)
		}
	}
	pin("shop", "early")
	pin("bank", "early")
	mustMove(t, f, 2, "bank")
	pin("bank", "late")
	pin("shop", "late")
	drop("shop", "late")
	drop("bank", "early")
	expect("early", "late")
	drop("shop", "early")
	drop("bank", "late")
	expect()
}
