package group_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// interruptedMember calls somebody in the middle of a round, before it commits.
type interruptedMember struct {
	*member
	then func()
}

func (m *interruptedMember) Commit(ctx context.Context, round uint64, c journal.Checkpoint) (journal.Position, error) {
	m.then()
	return m.member.Commit(ctx, round, c)
}

// TestNoRoundGoesOnBehindTheEnd: a snapshot asks for a checkpoint in the moment in which
// the group is rewound. A member that forks between the commit of another one and its own
// would have the checkpoint be of two states.
func TestNoRoundGoesOnBehindTheEnd(t *testing.T) {
	ms := newMembers(t, 2)
	c := newCoordinator(ms, settings())
	before, err := c.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, ms[0], 1)
	write(t, ms[1], 1)
	forked := make(chan error, 1)
	middle := &interruptedMember{member: ms[1], then: func() {
		go func() { // as a rewind does
			c.End()
			var failed []error
			for _, m := range ms {
				failed = append(failed, m.Fork(context.Background(), before.Positions[m.Volume()], "rewind"))
			}
			forked <- errors.Join(failed...)
		}()
		select {
		case err := <-forked:
			forked <- err
			t.Error("the members fork in the middle of a round")
		case <-time.After(50 * time.Millisecond): // it waits, as far as anybody can tell
		}
	}}
	c.SetMembers([]group.Member{ms[0], middle})
	taken, err := c.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if one, other := taken.Positions[ms[0].Volume()], taken.Positions[ms[1].Volume()]; one.Timeline != before.Positions[ms[0].Volume()].Timeline || other.Timeline != before.Positions[ms[1].Volume()].Timeline {
		t.Errorf("a checkpoint of two states: %v", taken.Positions)
	}
	if err := <-forked; err != nil {
		t.Fatal(err)
	}
	middle.then = func() { t.Error("a round behind the end") }
	tip := ms[0].Store().Tip()
	if _, err := c.Take(t.Context()); !errors.Is(err, group.ErrBarrier) {
		t.Errorf("a checkpoint behind the end: %v, want ErrBarrier", err)
	}
	if got := ms[0].Store().Tip(); got != tip {
		t.Errorf("the tip is at %v, want %v", got, tip)
	}
	next := group.NewCoordinator("shop", settings(), c.Last(), time.Time{}, clock.Wall{})
	next.SetMembers(asMembers(ms))
	if _, err := next.Take(t.Context()); err != nil {
		t.Errorf("the next coordinator: %v", err)
	}
}
