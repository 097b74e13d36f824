package fleet_test

import (
	"context"
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// copyOf is a volume that is to be made from a pin of volume 1.
func copyOf(n byte, groupName string) fleet.NewVolume {
	v := newVolume(n, groupName)
	v.Fill = &fleet.Source{Member: id(1), Pin: "snap"}
	return v
}

// resting has a group of two volumes, the first of them pinned with 7 in it, of which no
// engine runs.
func resting(t *testing.T, c *cluster, f *fleet.Fleet) {
	t.Helper()
	mustCreate(t, f, newVolume(1, "shop"))
	mustCreate(t, f, newVolume(2, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 7)
	mustDetach(t, f, 1)
	if _, _, err := f.PinPoint(bounded(t), "shop", "snap", ""); err != nil {
		t.Fatal(err)
	}
	until(t, "the group to rest", func() bool { return c.node(id(1)) == "" && c.node(id(2)) == "" })
}

// TestACopyIsMadeWhereTheSchedulerChooses: the backing volume waits for the engine, which
// is filled from one that does not run at first.
func TestACopyIsMadeWhereTheSchedulerChooses(t *testing.T) {
	c := newCluster(t)
	c.scheduled = true
	f := c.open()
	defer closeFleet(t, f)
	resting(t, c, f)
	mustCreate(t, f, copyOf(3, "copy"))
	mustAttach(t, f, 3, "node2")
	expect(t, c.device(id(3)), 7)
}

// TestAGroupOfEnginesGoesOnWhileACopyIsMade: a volume that is restored into a group takes as
// long as its copy, and is no member before. Nothing of the group waits for it: no
// attachment, no snapshot, and no demotion, by which a site that was failed over from
// ends its writes.
func TestAGroupOfEnginesGoesOnWhileACopyIsMade(t *testing.T) {
	during := map[string]func(t *testing.T, f *fleet.Fleet) error{
		"attach": func(t *testing.T, f *fleet.Fleet) error {
			_, err := f.Attach(bounded(t), id(2), "node1", plain)
			return err
		},
		"pin": func(t *testing.T, f *fleet.Fleet) error {
			_, _, err := f.PinPoint(bounded(t), "shop", "other", "")
			return err
		},
		"unpin": func(t *testing.T, f *fleet.Fleet) error { return f.UnpinPoint(bounded(t), "shop", "none") },
		"newest point": func(t *testing.T, f *fleet.Fleet) error {
			_, _, err := f.PinPoint(bounded(t), "shop", "other", "latest")
			return err
		},
		"move": func(t *testing.T, f *fleet.Fleet) error {
			mustCreate(t, f, newVolume(4, "bank"))
			return f.MoveVolume(bounded(t), id(4), "shop", group.Settings{})
		},
		"demote": func(t *testing.T, f *fleet.Fleet) error {
			a := replication.Announcement{Group: "shop", Term: 2, Settings: newVolume(1, "shop").Settings.WithDefaults()}
			for n := byte(1); n <= 2; n++ {
				a.Members = append(a.Members, replication.Member{Volume: id(n), Name: newVolume(n, "shop").Name, SizeBytes: volumeBytes})
			}
			return f.Groups().Standings().Follow(bounded(t), "b", a)
		},
	}
	for name, do := range during {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			f := c.open()
			defer closeFleet(t, f)
			resting(t, c, f)
			begun, goOn := make(chan struct{}), make(chan struct{})
			c.copying = func(ctx context.Context) error {
				close(begun)
				select {
				case <-goOn:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			made := make(chan error, 1)
			go func() {
				_, err := f.CreateVolume(bounded(t), copyOf(3, "shop"))
				made <- err
			}()
			select {
			case <-begun:
			case err := <-made:
				t.Fatalf("made without a copy: %v", err)
			}
			if err := do(t, f); err != nil {
				t.Errorf("%s during the copy: %v", name, err)
			}
			close(goOn)
			if err := <-made; err != nil && !(name == "demote" && errors.Is(err, group.ErrRole)) {
				t.Error(err)
			}
			if name == "demote" { // it is nobody's replica, and goes
				if f.RetireVolume(bounded(t), id(3)) != nil || f.DeleteVolume(bounded(t), id(3)) != nil || c.has(id(3)) {
					t.Error("the volume that was being made is left")
				}
				return
			}
			mustAttach(t, f, 3, "node1")
			expect(t, c.device(id(3)), 7)
			point, _, err := f.PinPoint(bounded(t), "shop", "after", "")
			if err != nil || len(point.Members) < 3 {
				t.Errorf("point %+v, %v", point, err)
			}
		})
	}
}

// TestACopyGoesOnWithAnotherEngineOfItsSource: the engine that is copied from is replaced,
// by an upgrade or because its node is drained, in the middle.
func TestACopyGoesOnWithAnotherEngineOfItsSource(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	resting(t, c, f)
	killed := false
	c.copying = func(ctx context.Context) error {
		if killed {
			return nil
		}
		killed = true
		go c.kill(id(1))
		<-ctx.Done()
		return ctx.Err()
	}
	mustCreate(t, f, copyOf(3, "copy"))
	mustAttach(t, f, 3, "node2")
	expect(t, c.device(id(3)), 7)
}
