package replication

import (
	"errors"
	"testing"

	"github.com/lockstep-csi/lockstep/journal"
)

func TestCredit(t *testing.T) {
	c := newCredit(100)
	at := func(seq journal.Seq) journal.Position { return journal.Position{Timeline: 1, Seq: seq} }
	if !c.fits(500) || c.grows(101) {
		t.Error("a single message may exceed the limit, but may not be made to")
	}
	c.spend(charge{number: 1, rawBytes: 60, through: at(3)})
	c.spend(charge{number: 2, rawBytes: 40, through: at(5)})
	if c.fits(1) || c.inFlight() != 100 {
		t.Errorf("%d bytes in flight of 100, and more fits", c.inFlight())
	}
	for _, bad := range []struct {
		name   string
		number uint64
		at     journal.Position
	}{{"future", 3, at(5)}, {"wrong position", 2, at(4)}, {"no position", 1, journal.Position{}}} {
		if _, err := c.acknowledge(bad.number, bad.at); !errors.Is(err, ErrProtocol) || c.inFlight() != 100 {
			t.Errorf("%s: %v, %d bytes in flight", bad.name, err, c.inFlight())
		}
	}
	acked, err := c.acknowledge(2, at(5))
	if err != nil || len(acked) != 2 || c.inFlight() != 0 {
		t.Errorf("got %v, %v, %d bytes in flight", acked, err, c.inFlight())
	}
	select {
	case <-c.freed:
	default:
		t.Error("nobody is told of freed credit")
	}
	if _, err := c.acknowledge(2, at(5)); !errors.Is(err, ErrProtocol) {
		t.Errorf("acknowledged twice: %v", err)
	}
	for i := range uint64(maxUnacked) {
		c.spend(charge{number: i + 3})
	}
	if c.fits(0) {
		t.Errorf("more than %d messages in flight", maxUnacked)
	}
}
