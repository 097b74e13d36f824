package fleet_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
)

var plain = control.Attach{BlockBytes: 512}

func mustCreate(t *testing.T, f *fleet.Fleet, n fleet.NewVolume) {
	t.Helper()
	if _, err := f.CreateVolume(bounded(t), n); err != nil {
		t.Fatal(err)
	}
}

func mustAttach(t *testing.T, f *fleet.Fleet, n byte, node string) {
	t.Helper()
	device, err := f.Attach(bounded(t), id(n), node, plain)
	if err != nil || device != "/dev/test0" {
		t.Fatalf("attach: %q, %v", device, err)
	}
}

func mustDetach(t *testing.T, f *fleet.Fleet, n byte) {
	t.Helper()
	if err := f.Detach(bounded(t), id(n)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dev engine.Device, b byte) {
	t.Helper()
	if err := dev.WriteAt(ctx, bytes.Repeat([]byte{b}, 512), 0, false); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, dev engine.Device, want byte) {
	t.Helper()
	p := make([]byte, 512)
	if err := dev.ReadAt(ctx, p, 0); err != nil || p[0] != want {
		t.Errorf("read %d, %v; want %d", p[0], err, want)
	}
}

func takePoint(t *testing.T, f *fleet.Fleet, name string) group.Point {
	t.Helper()
	p, _, err := f.Groups().TakePoint(bounded(t), name, "")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestMembersOnTwoNodesShareTheirPoints(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "prod/shop"))
	}
	if c.starts != 0 {
		t.Errorf("%d engines run for volumes that nobody uses", c.starts)
	}
	mustAttach(t, f, 1, "node1")
	mustAttach(t, f, 2, "node2")
	write(t, c.device(id(1)), 1)
	write(t, c.device(id(2)), 1)
	p := takePoint(t, f, "prod/shop")
	if len(p.Members) != 2 {
		t.Errorf("point %+v, want both members", p)
	}
}

func TestAnAttachedMemberKeepsTheOthersEnginesUp(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
	}
	mustAttach(t, f, 1, "node1")
	until(t, "a point of both members", func() bool {
		_, _, err := f.Groups().TakePoint(bounded(t), "shop", "")
		return err == nil && c.node(id(2)) != ""
	})
	mustDetach(t, f, 1)
	until(t, "no engine to be left", func() bool { return c.node(id(1)) == "" && c.node(id(2)) == "" })
	if _, _, err := f.Groups().TakePoint(bounded(t), "shop", ""); err == nil {
		t.Error("a group at rest took a point without being woken")
	}
}

func TestAVolumeMoves(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	if _, err := f.Attach(bounded(t), id(1), "node2", plain); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("attach to a second node: %v, want ErrInUse", err)
	}
	write(t, c.device(id(1)), 5)
	c.device(id(1)).busy = true
	if err := f.Detach(bounded(t), id(1)); !errors.Is(err, groups.ErrInUse) {
		t.Fatalf("detach a device in use: %v, want ErrInUse", err)
	}
	write(t, c.device(id(1)), 6) // it goes on
	c.device(id(1)).busy = false
	mustDetach(t, f, 1)
	mustAttach(t, f, 1, "node2")
	if node := c.node(id(1)); node != "node2" {
		t.Errorf("engine is on %q", node)
	}
	expect(t, c.device(id(1)), 6)
}

func TestAnEngineThatDiesIsReplaced(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 5)
	before := takePoint(t, f, "shop")
	c.kill(id(1))
	until(t, "the device to be back", func() bool {
		v, err := f.Volume(id(1))
		return err == nil && v.Connected && v.State.Device != "" && c.node(id(1)) == "node1"
	})
	expect(t, c.device(id(1)), 5)
	write(t, c.device(id(1)), 6)
	var after group.Point
	until(t, "a new point", func() bool {
		var err error
		after, _, err = f.Groups().TakePoint(bounded(t), "shop", "")
		return err == nil
	})
	if after.Checkpoint <= before.Checkpoint {
		t.Errorf("point %d after %d", after.Checkpoint, before.Checkpoint)
	}
}

func TestEnginesGoOnWithoutTheController(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	for n := range byte(2) {
		mustCreate(t, f, newVolume(n+1, "shop"))
		mustAttach(t, f, n+1, "node1")
	}
	before := takePoint(t, f, "shop")
	starts := c.starts
	closeFleet(t, f)
	write(t, c.device(id(1)), 7)
	c.db = c.db.Clone()
	f = c.open()
	defer closeFleet(t, f)
	var after group.Point
	until(t, "the new controller to take a point", func() bool {
		var err error
		after, _, err = f.Groups().TakePoint(bounded(t), "shop", "")
		return err == nil
	})
	if after.Checkpoint <= before.Checkpoint || len(after.Members) != 2 {
		t.Errorf("point %+v after %+v", after, before)
	}
	if c.starts != starts {
		t.Errorf("%d engines were started anew", c.starts-starts)
	}
	expect(t, c.device(id(1)), 7)
}

func TestAPinOfARestingGroupFillsAClone(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 3)
	mustDetach(t, f, 1)
	until(t, "the group to rest", func() bool { return c.node(id(1)) == "" })
	if _, _, err := f.PinPoint(bounded(t), "shop", "snap", ""); err != nil {
		t.Fatal(err)
	}
	n := newVolume(2, "copy")
	n.Fill = &fleet.Source{Member: id(1), Pin: "snap"}
	mustCreate(t, f, n)
	mustCreate(t, f, n) // again
	mustAttach(t, f, 2, "node2")
	expect(t, c.device(id(2)), 3)
	if err := f.UnpinPoint(bounded(t), "shop", "snap"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.PinPoint(bounded(t), "shop", "again", "pin:snap"); !errors.Is(err, group.ErrNoPoint) {
		t.Errorf("the pin is still there: %v", err)
	}
}

func TestAVolumeIsDeletedWithItsEngine(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	if err := deleteVolume(t, f, 1); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("delete an attached volume: %v, want ErrInUse", err)
	}
	mustDetach(t, f, 1)
	for range 2 {
		if err := deleteVolume(t, f, 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.backing) != 0 || len(c.engines) != 0 {
		t.Errorf("%d backing volumes and %d engines are left", len(c.backing), len(c.engines))
	}
	if _, err := f.Groups().State("shop"); !errors.Is(err, group.ErrNotFound) {
		t.Errorf("group of a deleted volume: %v", err)
	}
}

// TestAPinIsDroppedThoughAMemberIsDeleted deletes a member while the pin's end
// waits for that member's engine.
func TestAPinIsDroppedThoughAMemberIsDeleted(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := byte(1); n <= 2; n++ {
		if _, err := f.CreateVolume(bounded(t), newVolume(n, "shop")); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(deaf bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.deaf = deaf
	}
	until(t, "engines that nothing wants to be stopped", func() bool { return c.node(id(1)) == "" && c.node(id(2)) == "" })
	hear(true)
	unpinned := make(chan error, 1)
	go func() { unpinned <- f.UnpinPoint(bounded(t), "shop", "marker") }()
	until(t, "engines to be asked", func() bool { return c.node(id(1)) != "" && c.node(id(2)) != "" })
	if err := deleteVolume(t, f, 2); err != nil {
		t.Fatal(err)
	}
	hear(false)
	if err := <-unpinned; err != nil {
		t.Errorf("drop the pin of a group of which a member was deleted meanwhile: %v", err)
	}
}

func TestABackingVolumeThatFindsNoRoomLeavesNothing(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	c.full = true
	if _, err := f.CreateVolume(bounded(t), newVolume(1, "shop")); !errors.Is(err, fleet.ErrExhausted) {
		t.Fatalf("create: %v, want ErrExhausted", err)
	}
	if err := deleteVolume(t, f, 1); err != nil {
		t.Fatal(err)
	}
	if vs := f.Volumes(); len(vs) != 0 {
		t.Errorf("volumes %+v are left", vs)
	}
}
