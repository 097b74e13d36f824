package fleet_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
)

var errStillWaits = errors.New("the caller has given up first")

// ended returns errStillWaits for a context that has ended.
func ended(waiting context.Context) error {
	if waiting.Err() != nil {
		return errStillWaits
	}
	return nil
}

// TestAnEngineThatNeverComesIsNotWaitedForForever: who makes, attaches or expands a volume, or makes or
// drops a pin, holds a place among the operations that the controller carries out at a time, and
// what it has begun keeps others from it.
func TestAnEngineThatNeverComesIsNotWaitedForForever(t *testing.T) {
	create := func(n fleet.NewVolume) func(*testing.T, *fleet.Fleet) error {
		return func(t *testing.T, f *fleet.Fleet) error {
			_, err := f.CreateVolume(bounded(t), n)
			if f.RetireVolume(bounded(t), n.ID) != nil || f.DeleteVolume(bounded(t), n.ID) != nil {
				t.Error("what was begun of the volume is not taken away")
			}
			return err
		}
	}
	for name, test := range map[string]struct {
		never     byte // the volume whose engine does not come
		attached  bool // the group is in use
		scheduled bool // new backing volumes wait for their engine
		do        func(*testing.T, *fleet.Fleet) error
		pinless   bool // the error says that nothing is pinned
	}{
		"pin": {never: 2, pinless: true, do: func(t *testing.T, f *fleet.Fleet) error {
			_, _, err := f.PinPoint(bounded(t), "shop", "other", "")
			return err
		}},
		"unpin": {never: 2, do: func(t *testing.T, f *fleet.Fleet) error { return f.UnpinPoint(bounded(t), "shop", "snap") }},
		"attachment": {never: 2, do: func(t *testing.T, f *fleet.Fleet) error {
			waiting := bounded(t)
			_, err := f.Attach(waiting, id(2), "node1", plain)
			return errors.Join(err, ended(waiting))
		}},
		"expansion": {never: 2, do: func(t *testing.T, f *fleet.Fleet) error {
			waiting := bounded(t)
			return errors.Join(f.ExpandVolume(waiting, id(2), 2*volumeBytes), ended(waiting))
		}},
		"volume of a group in use":  {never: 3, attached: true, do: create(newVolume(3, "shop"))},
		"volume that has no place":  {never: 3, scheduled: true, do: create(newVolume(3, "bank"))},
		"copy":                      {never: 3, do: create(copyOf(3, "copy"))},
		"copy of what is not there": {never: 1, do: create(copyOf(3, "copy"))},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			f := c.open()
			resting(t, c, f)
			closeFleet(t, f)
			c.engineWait, c.scheduled = 50*time.Millisecond, test.scheduled
			c.run = func(ctx context.Context, spec fleet.EngineSpec) error {
				if spec.Volume != id(test.never) {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			f = c.open()
			defer func() { closeFleet(t, f) }()
			if test.attached {
				mustAttachLate(t, f, 1, "node1")
			}
			err := test.do(t, f)
			if errors.Is(err, errStillWaits) {
				t.Error("it is waited for without an end")
			}
			if !errors.Is(err, fleet.ErrNoEngine) || errors.Is(err, fleet.ErrNotPinned) != test.pinless {
				t.Errorf("without an engine: %v", err)
			}
			if st, err := f.Groups().State("shop"); err != nil || len(st.Members) != 2 || c.has(id(3)) {
				t.Errorf("group %+v, %v; a backing volume is left: %t", st, err, c.has(id(3)))
			}
			if _, err := f.Groups().State("bank"); !errors.Is(err, group.ErrNotFound) {
				t.Errorf("the group of the volume that was not made: %v", err)
			}
		})
	}
}

// TestABackingVolumeThatNeverComesIsNotWaitedForForever: the error says what to look at, what was begun is
// taken away, and the next attempt makes the volume once the provisioner works.
func TestABackingVolumeThatNeverComesIsNotWaitedForForever(t *testing.T) {
	c := newCluster(t)
	c.engineWait, c.unbound = 50*time.Millisecond, true
	f := c.open()
	defer func() { closeFleet(t, f) }()
	n := newVolume(1, "shop")
	_, err := f.CreateVolume(bounded(t), n)
	if !errors.Is(err, fleet.ErrNotBound) {
		t.Errorf("without a backing volume: %v", err)
	}
	if err := errors.Join(f.RetireVolume(bounded(t), n.ID), f.DeleteVolume(bounded(t), n.ID)); err != nil {
		t.Errorf("what was begun is not taken away: %v", err)
	}
	if _, err := f.Groups().State("shop"); !errors.Is(err, group.ErrNotFound) {
		t.Errorf("the group of the volume that was not made: %v", err)
	}
	c.mu.Lock()
	c.unbound = false
	c.mu.Unlock()
	mustCreate(t, f, n)
}

// TestAnEngineThatDoesNotGoIsNotWaitedForForever: of a node that is lost. The backing volume
// stays as long, and the deletion goes on when the engine is gone.
func TestAnEngineThatDoesNotGoIsNotWaitedForForever(t *testing.T) {
	c := newCluster(t)
	c.engineWait = 50 * time.Millisecond
	lost := make(chan struct{})
	c.stop = func(ctx context.Context) error {
		select {
		case <-lost:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f := c.open()
	defer func() { closeFleet(t, f) }()
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	mustDetach(t, f, 1)
	if err := f.RetireVolume(bounded(t), id(1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.DeleteVolume(bounded(t), id(1)); !errors.Is(err, fleet.ErrNotGone) || !strings.Contains(err.Error(), "node1") {
			t.Errorf("with its engine there: %v", err)
		}
		if !c.has(id(1)) {
			t.Fatal("the backing volume is gone")
		}
	}
	close(lost)
	until(t, "the volume to be gone", func() bool { return f.DeleteVolume(bounded(t), id(1)) == nil })
	if c.has(id(1)) {
		t.Error("the backing volume is left")
	}
}
