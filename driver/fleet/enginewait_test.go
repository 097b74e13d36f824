package fleet_test

import (
	"context"
	"errors"
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
