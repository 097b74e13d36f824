package fleet_test

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/driver/groups"
)

// What a rewind would do is told while the group is in use: whoever rewinds stops
// its users first. The rewind itself is refused until that is done.
func TestARewindIsPlannedWhileTheGroupIsInUse(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	mustCreate(t, f, newVolume(1, "shop"))
	mustAttach(t, f, 1, "node1")
	write(t, c.device(id(1)), 1)
	p := takePoint(t, f, "shop")
	plan, err := f.Groups().StartRewind(bounded(t), "shop", "latest", true)
	if err != nil || plan.To.Checkpoint < p.Checkpoint {
		t.Errorf("plan %+v, %v", plan.To, err)
	}
	if st, err := f.Groups().State("shop"); err != nil || st.Rewind != nil {
		t.Errorf("after a plan the group is %+v, %v", st, err)
	}
	c.device(id(1)).busy = true
	if _, err := f.Groups().StartRewind(bounded(t), "shop", "latest", false); !errors.Is(err, groups.ErrInUse) {
		t.Errorf("a rewind under a user: %v, want ErrInUse", err)
	}
}
