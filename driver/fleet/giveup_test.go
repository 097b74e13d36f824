package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
)

// Who has a group's members looked at, and gives up in the midst of that, has heard of none
// that it does not take part: its recovery points go on.
func TestALookAtMembersThatIsGivenUpCostsNoPoint(t *testing.T) {
	c := newCluster(t)
	f := c.open()
	defer closeFleet(t, f)
	for n := byte(1); n <= 2; n++ {
		mustCreate(t, f, newVolume(n, "shop"))
		mustAttach(t, f, n, "node1")
		write(t, c.device(id(n)), n)
	}
	takePoint(t, f, "shop")
	over, giveUp := context.WithCancel(ctx)
	giveUp()
	if err := f.Groups().Refresh(over, "shop"); !errors.Is(err, context.Canceled) {
		t.Errorf("looked at by who has given up: %v, want Canceled", err)
	}
	if p := takePoint(t, f, "shop"); len(p.Members) != 2 {
		t.Errorf("point %+v, want one of two members", p)
	}
}

// Whoever asked for a rewind may go as soon as it is written down: the group has its devices
// back, and takes recovery points.
func TestARewindEndsForWhoHasGone(t *testing.T) {
	c := newCluster(t)
	over, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var mu sync.Mutex
	back := false
	c.attaching = func() {
		mu.Lock()
		defer mu.Unlock()
		if back {
			giveUp()
		}
	}
	f := c.open()
	defer closeFleet(t, f)
	for n := byte(1); n <= 2; n++ {
		mustCreate(t, f, newVolume(n, "shop"))
		mustAttach(t, f, n, "node1")
		write(t, c.device(id(n)), n)
	}
	point := takePoint(t, f, "shop")
	mu.Lock()
	back = true
	mu.Unlock()
	if _, err := f.Groups().StartRewind(over, "shop", fmt.Sprint(point.Checkpoint), false); err != nil {
		t.Fatal(err)
	}
	for n := byte(1); n <= 2; n++ {
		write(t, c.device(id(n)), n+2)
	}
	if p := takePoint(t, f, "shop"); len(p.Members) != 2 {
		t.Errorf("point %+v, want one of two members", p)
	}
}
