package fleet_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
)

// prepareRewind leaves two attached volumes with 2 written behind a point, named
// good, at which they hold 1.
func prepareRewind(t *testing.T, c *cluster, f *fleet.Fleet) {
	t.Helper()
	for n := byte(1); n <= 2; n++ {
		mustCreate(t, f, newVolume(n, "shop"))
		mustAttach(t, f, n, "node1")
		write(t, c.device(id(n)), 1)
	}
	if _, _, err := f.PinPoint(bounded(t), "shop", "good", ""); err != nil {
		t.Fatal(err)
	}
	write(t, c.device(id(1)), 2)
	write(t, c.device(id(2)), 2)
	until(t, "the pin to be known", func() bool {
		_, err := f.Groups().Select(bounded(t), "shop", "pin:good")
		return err == nil
	})
}

// rewindToGood is what a controller does until it succeeds.
func rewindToGood(t *testing.T, f *fleet.Fleet) error {
	release, err := f.Wake(bounded(t), "shop", false)
	if err != nil {
		return err
	}
	defer release()
	if _, err = f.Groups().StartRewind(bounded(t), "shop", "pin:good", false); errors.Is(err, group.ErrRewindOpen) {
		return nil
	}
	return err
}

// undoRewind is the same for an undo.
func undoRewind(t *testing.T, f *fleet.Fleet) error {
	release, err := f.Wake(bounded(t), "shop", false)
	if err != nil {
		return err
	}
	defer release()
	if _, err = f.Groups().UndoRewind(bounded(t), "shop", false); errors.Is(err, group.ErrNoRewind) {
		return nil
	}
	return err
}

// expectBoth checks what the devices of both volumes hold, that they take writes,
// and that points come into being.
func expectBoth(t *testing.T, c *cluster, f *fleet.Fleet, want byte) {
	t.Helper()
	for n := byte(1); n <= 2; n++ {
		if c.device(id(n)).gone {
			t.Fatalf("volume %d has no device", n)
		}
		expect(t, c.device(id(n)), want)
		if err := c.device(id(n)).WriteAt(ctx, make([]byte, 512), 512, false); err != nil {
			t.Errorf("write to volume %d: %v", n, err)
		}
	}
	if p := takePoint(t, f, "shop"); len(p.Members) != 2 {
		t.Errorf("point %+v, want both members", p)
	}
}

// TestARewindOfAttachedVolumes: those that nothing uses need not be detached for it.
// Their devices go and come back.
func TestARewindOfAttachedVolumes(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	prepareRewind(t, c, f)
	first, second := c.device(id(1)), c.device(id(2))
	second.busy = true
	if err := f.Idle(bounded(t), "shop"); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("idle with a device in use: %v, want ErrInUse", err)
	}
	if err := rewindToGood(t, f); !errors.Is(err, groups.ErrInUse) {
		t.Fatalf("rewind under a device in use: %v, want ErrInUse", err)
	}
	if second.gone {
		t.Error("a device in use is gone")
	}
	expectBoth(t, c, f, 2) // that of the other one is back
	second.busy = false
	if err := f.Idle(bounded(t), "shop"); err != nil {
		t.Errorf("idle: %v", err)
	}
	if err := rewindToGood(t, f); err != nil {
		t.Fatal(err)
	}
	if !first.gone || !second.gone {
		t.Errorf("the group was rewound under a device: first gone %t, second gone %t", first.gone, second.gone)
	}
	expectBoth(t, c, f, 1)
	if _, err := f.Groups().UndoRewind(bounded(t), "shop", false); err != nil {
		t.Fatal(err)
	}
	expectBoth(t, c, f, 2)
	if volumes := f.Volumes(); volumes[0].Attach == nil || volumes[1].Attach == nil {
		t.Errorf("volumes are not attached any more: %+v", volumes)
	}
	mustDetach(t, f, 1)
	mustDetach(t, f, 2)
}

// TestARewindSurvivesTheDeathOfAnEngine kills one at each commit of the rewind of
// attached volumes: repeated, it ends, and no device holds anything else than its
// volume.
func TestARewindSurvivesTheDeathOfAnEngine(t *testing.T) {
	for k := 1; ; k++ {
		if !disturbRewind(t, k, func(c *cluster, _ *fleet.Fleet) { c.kill(id(2)) }, expectBoth) {
			if k == 1 {
				t.Error("a rewind makes no commit: nothing was tested")
			}
			return
		}
	}
}

// TestARewindSurvivesADetach has Kubernetes detach a volume at each commit.
func TestARewindSurvivesADetach(t *testing.T) {
	for k := 1; ; k++ {
		var detaching sync.WaitGroup
		detach := func(_ *cluster, f *fleet.Fleet) {
			detaching.Go(func() {
				if err := f.Detach(bounded(t), id(2)); err != nil {
					t.Errorf("detach at commit %d: %v", k, err)
				}
			})
		}
		again := disturbRewind(t, k, detach, func(t *testing.T, c *cluster, f *fleet.Fleet, want byte) {
			detaching.Wait()
			mustAttach(t, f, 2, "node1")
			expectBoth(t, c, f, want)
		})
		if !again {
			return
		}
	}
}

// disturbRewind calls disturb before the k-th commit of a rewind and reports
// whether there was one.
func disturbRewind(t *testing.T, k int, disturb func(*cluster, *fleet.Fleet), check func(*testing.T, *cluster, *fleet.Fleet, byte)) bool {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	prepareRewind(t, c, f)
	var commits atomic.Int64
	c.db.SetHooks(kv.Hooks{BeforeCommit: func() error {
		if commits.Add(1) == int64(k) {
			disturb(c, f)
		}
		return nil
	}})
	err := rewindToGood(t, f)
	c.db.SetHooks(kv.Hooks{})
	disturbed := commits.Load() >= int64(k)
	if err != nil && !disturbed {
		t.Fatalf("undisturbed: %v", err)
	}
	until(t, "the rewind to be done", func() bool { return rewindToGood(t, f) == nil })
	until(t, "the devices to be back", func() bool {
		release, err := f.Wake(context.WithoutCancel(bounded(t)), "shop", false)
		if err != nil {
			return false
		}
		defer release()
		for _, v := range f.Volumes() {
			if v.Attach != nil && !v.Attach.Leaving && v.State.Device == "" {
				return false
			}
		}
		return true
	})
	check(t, c, f, 1)
	return disturbed
}
