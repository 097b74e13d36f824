package fleet_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// holders is how many views and holds a volume's engine has.
func (c *cluster) holders(t *testing.T, id journal.VolumeID) (n int) {
	t.Helper()
	c.mu.Lock()
	p := c.engines[id]
	c.mu.Unlock()
	eng, err := p.pod.Engine()
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range eng.Store().TimelineUses() {
		n += u.Views
	}
	return n
}

// A point that has left its tier is found by what selects it, and held, over the
// engines' control API, for as long as they have it.
func TestAPointOutlivesItsTierInACluster(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer func() { closeFleet(t, f) }()
	for n := byte(1); n <= 2; n++ {
		v := newVolume(n, "shop")
		v.Settings.History, v.Settings.Window = "100ms:200ms,1h:7d", 7*24*time.Hour
		mustCreate(t, f, v)
		mustAttach(t, f, n, "node1")
	}
	var points []group.Point
	for i := range byte(4) {
		for n := byte(1); n <= 2; n++ {
			write(t, c.device(id(n)), i+1)
		}
		points = append(points, takePoint(t, f, "shop"))
	}
	var unlisted group.Point // one that is not the first of an hour, nor the newest
	until(t, "a point to leave its tier", func() bool {
		listed, err := f.Groups().Points(bounded(t), "shop")
		if err != nil {
			t.Fatal(err)
		}
		known := map[journal.CheckpointNumber]bool{}
		for _, p := range listed {
			known[p.Checkpoint] = true
		}
		for _, p := range points {
			if !known[p.Checkpoint] {
				unlisted = p
				return true
			}
		}
		return false
	})
	for _, at := range []string{fmt.Sprint(unlisted.Checkpoint), unlisted.Time.Format(time.RFC3339Nano)} {
		p, err := f.Groups().Select(bounded(t), "shop", at)
		if err != nil || p.Checkpoint != unlisted.Checkpoint || len(p.Members) != 2 {
			t.Errorf("%s selects %+v, %v", at, p, err)
		}
	}
	_, release, err := f.Groups().Hold(bounded(t), "shop", fmt.Sprint(unlisted.Checkpoint), "recovery")
	if err != nil {
		t.Fatal(err)
	}
	for n := byte(1); n <= 2; n++ {
		if held := c.holders(t, id(n)); held != 1 {
			t.Errorf("volume %d is held by %d, want 1", n, held)
		}
	}
	// Whoever comes back after a crash holds it by the same name.
	if _, _, err := f.Groups().Hold(bounded(t), "shop", fmt.Sprint(unlisted.Checkpoint), "recovery"); err != nil {
		t.Fatal(err)
	}
	release()
	for n := byte(1); n <= 2; n++ {
		if held := c.holders(t, id(n)); held != 0 {
			t.Errorf("volume %d is held by %d after the release", n, held)
		}
	}
	if _, _, err := f.Groups().Hold(bounded(t), "shop", "1000000", ""); !errors.Is(err, group.ErrNoPoint) {
		t.Errorf("hold a point that never was: %v, want ErrNoPoint", err)
	}
	p, _, err := f.PinPoint(bounded(t), "shop", "late", fmt.Sprint(unlisted.Checkpoint))
	if err != nil || p.Checkpoint != unlisted.Checkpoint {
		t.Errorf("pinned %d, %v", p.Checkpoint, err)
	}
	for n := byte(1); n <= 2; n++ {
		if held := c.holders(t, id(n)); held != 0 {
			t.Errorf("volume %d is held by %d after it was pinned", n, held)
		}
	}
}
