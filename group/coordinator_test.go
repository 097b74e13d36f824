package group_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func settings() group.Settings {
	return group.Settings{BarrierTimeout: 5 * time.Second}.WithDefaults()
}

func newCoordinator(ms []*member, s group.Settings) *group.Coordinator {
	c := group.NewCoordinator("shop", s, 0, time.Time{}, clock.Wall{})
	c.SetMembers(asMembers(ms))
	return c
}

func write(t *testing.T, m *member, b byte) {
	t.Helper()
	if err := m.WriteAt(context.Background(), bytes.Repeat([]byte{b}, 512), 0, false); err != nil {
		t.Fatal(err)
	}
}

func TestTakeIsARecoveryPointOfAllMembers(t *testing.T) {
	ms := newMembers(t, 3)
	c := newCoordinator(ms, settings())
	for i := range 5 {
		write(t, ms[i%3], byte(i))
		taken, err := c.Take(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if taken.Number != journal.CheckpointNumber(i+1) || len(taken.Positions) != 3 {
			t.Fatalf("taken %+v", taken)
		}
	}
	points := group.Points("shop", asHistories(ms), nobody)
	if len(points) != 5 {
		t.Fatalf("%d recovery points, want 5", len(points))
	}
	for i, p := range points {
		if len(p.Members) != 3 || p.Checkpoint != journal.CheckpointNumber(i+1) || i > 0 && !p.Time.After(points[i-1].Time) {
			t.Errorf("point %d: %+v", i, p)
		}
	}
}

func TestAMemberThatFailsAbortsTheRoundEverywhere(t *testing.T) {
	tests := []struct {
		name string
		set  func(*member)
		// timeout is that of the round. Where a member answers it never ends: a barrier
		// that is left behind would then hold writes for as long as the test may last.
		timeout time.Duration
		// later rounds skip a number that some members may hold.
		next journal.CheckpointNumber
	}{
		{"prepare fails", func(m *member) { m.failPrepare = errMember }, time.Hour, 1},
		{"prepare never answers", func(m *member) { m.slow = make(chan struct{}) }, 20 * time.Millisecond, 1},
		{"commit fails", func(m *member) { m.failCommit = errMember }, time.Hour, 2},
	}
	for i, tt := range slices.Concat(tests, tests) {
		far := i >= len(tests)
		t.Run(fmt.Sprintf("%s, far %t", tt.name, far), func(t *testing.T) {
			ms := newMembers(t, 3)
			s := settings()
			s.BarrierTimeout = tt.timeout
			c := newCoordinator(ms, s)
			if far {
				c.SetMembers([]group.Member{farMember{ms[0]}, farMember{ms[1]}, farMember{ms[2]}})
			}
			tt.set(ms[1])
			if _, err := c.Take(context.Background()); !errors.Is(err, group.ErrBarrier) {
				t.Fatalf("take: %v, want ErrBarrier", err)
			}
			for _, m := range ms {
				write(t, m, 1) // no barrier is left behind
			}
			if n := len(group.Points("shop", asHistories(ms), nobody)); n != 0 {
				t.Errorf("%d recovery points after a failed round", n)
			}
			ms[1].failPrepare, ms[1].failCommit, ms[1].slow = nil, nil, nil
			c.Configure(settings())
			taken, err := c.Take(context.Background())
			if err != nil || taken.Number != tt.next {
				t.Errorf("next round: %+v, %v, want number %d", taken, err, tt.next)
			}
			if st := c.Stats(); st.Aborted != 1 || st.Committed != 1 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

func TestIdleGroupExtendsItsNewestPointWithoutWriting(t *testing.T) {
	ms := newMembers(t, 2)
	s := settings()
	s.CheckpointInterval = time.Second
	hand := clock.NewManual(time.Unix(1000, 0))
	c := group.NewCoordinator("shop", s, 0, time.Time{}, hand)
	c.SetMembers(asMembers(ms))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for range 4 {
		hand.WaitForTimers(1)
		hand.Advance(time.Second)
	}
	hand.WaitForTimers(1)
	cancel()
	wg.Wait()
	st := c.Stats()
	if st.Committed != 1 || st.Idle != 3 {
		t.Errorf("stats %+v, want one checkpoint of what was found and three idle rounds", st)
	}
	if want := time.Unix(1004, 0); !c.QuietUntil().Equal(want) {
		t.Errorf("quiet until %v, want %v", c.QuietUntil(), want)
	}
	if tip := ms[0].Store().Tip().Seq; tip != 1 {
		t.Errorf("an idle group wrote records up to seq %d", tip)
	}
}

// The newest point of an idle group says nothing of a member that has come since.
func TestAnIdleGroupTakesAPointOfItsNewMembers(t *testing.T) {
	ms := newMembers(t, 3)
	s := settings()
	s.CheckpointInterval = time.Millisecond
	c := newCoordinator(ms[:2], s)
	first, err := c.Take(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c.SetMembers(asMembers(ms[:2])) // the same again: nothing new
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	await(t, func() bool { return c.Stats().Idle > 0 })
	if n := c.Last(); n != first.Number {
		t.Errorf("point %d of an idle group with the members of point %d", n, first.Number)
	}
	c.SetMembers(asMembers(ms))
	await(t, func() bool { return c.Stats().Committed == 2 })
	idle := c.Stats().Idle
	await(t, func() bool { return c.Stats().Idle > idle })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	points := group.Points("shop", asHistories(ms), nobody)
	if n := len(points); n != 2 || len(points[1].Members) != 3 {
		t.Errorf("points %+v, want a second one with three members", points)
	}
}

// A round that came about in some members only, or that was not made durable in all,
// leaves them clean: what they hold is in no recovery point. The next automatic round
// must not take that for a group in which nothing has changed.
func TestAnIdleGroupMakesUpForARoundThatCameAboutInPart(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(m *member, err error)
	}{
		{"commit fails", func(m *member, err error) { m.failCommit = err }},
		{"flush fails", func(m *member, err error) { m.failFlush = err }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ms := newMembers(t, 2)
			s := settings()
			s.CheckpointInterval = time.Millisecond
			c := newCoordinator(ms, s)
			if _, err := c.Take(context.Background()); err != nil {
				t.Fatal(err)
			}
			write(t, ms[0], 7) // and nothing to the other one
			tt.set(ms[1], errMember)
			if _, err := c.Take(context.Background()); !errors.Is(err, errMember) {
				t.Fatalf("take: %v, want the member's error", err)
			}
			tt.set(ms[1], nil)
			runUntil(t, c, func() bool { st := c.Stats(); return st.Committed+st.Idle >= 3 })
			points := group.Points("shop", asHistories(ms), nobody)
			if newest := points[len(points)-1]; newest.Checkpoint != c.Last() || newest.Checkpoint < 3 {
				t.Errorf("newest point is %d, the newest checkpoint %d: what was written last is in none", newest.Checkpoint, c.Last())
			}
		})
	}
}

// A coordinator knows nothing of the last round of the one before it, which may have
// ended in the middle.
func TestANewCoordinatorMakesUpForARoundThatCameAboutInPart(t *testing.T) {
	ms := newMembers(t, 2)
	c := newCoordinator(ms, settings())
	if _, err := c.Take(context.Background()); err != nil {
		t.Fatal(err)
	}
	write(t, ms[0], 7)
	ms[1].failCommit = errMember
	if _, err := c.Take(context.Background()); !errors.Is(err, errMember) {
		t.Fatalf("take: %v, want the member's error", err)
	}
	ms[1].failCommit = nil
	s := settings()
	s.CheckpointInterval = time.Millisecond
	next := group.NewCoordinator("shop", s, 2, time.Time{}, clock.Wall{})
	next.SetMembers(asMembers(ms))
	runUntil(t, next, func() bool { st := next.Stats(); return st.Committed+st.Idle >= 2 })
	points := group.Points("shop", asHistories(ms), nobody)
	if newest := points[len(points)-1]; newest.Checkpoint != 3 || next.Last() != 3 {
		t.Errorf("newest point is %d, the newest checkpoint %d, want 3 for both", newest.Checkpoint, next.Last())
	}
}

// runUntil runs a coordinator until something has come about.
func runUntil(t *testing.T, c *group.Coordinator, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	await(t, ok)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// await waits for what a coordinator does by itself.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("timed out")
		}
	}
}

// A site that is demoted appends no checkpoint once its members have stopped: neither a
// round that was prepared before nor one that is prepared after.
func TestAGroupThatIsGivenUpTakesNoCheckpoint(t *testing.T) {
	ctx := context.Background()
	for name, stop := range map[string]func(*group.Coordinator, []*member){
		"prepared before": func(c *group.Coordinator, ms []*member) {
			c.Suspend(true)
			for _, m := range ms {
				if err := m.StopChanges(ctx); err != nil {
					t.Error(err)
				}
			}
		},
		"prepared after": func(c *group.Coordinator, _ []*member) { c.Suspend(true) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, far := range []bool{false, true} {
				ms := newMembers(t, 2)
				c := newCoordinator(ms, settings())
				if far {
					c.SetMembers([]group.Member{farMember{ms[0]}, farMember{ms[1]}})
				}
				var once sync.Once
				ms[1].drained = func() { once.Do(func() { stop(c, ms) }) }
				for range 2 {
					if taken, err := c.Take(ctx); !errors.Is(err, group.ErrBarrier) {
						t.Errorf("a round of a group that is given up: %+v, %v, want ErrBarrier", taken, err)
					}
				}
				for _, m := range ms {
					if n := len(m.Store().Checkpoints()); n != 0 {
						t.Errorf("far %t: a member has %d checkpoints, want none", far, n)
					}
				}
				c.Suspend(false)
				if _, err := c.Take(ctx); err != nil {
					t.Errorf("after the group was not given up after all: %v", err)
				}
			}
		})
	}
}

func TestTimesRiseWhenTheClockFalls(t *testing.T) {
	ms := newMembers(t, 1)
	last := time.Now().Add(time.Hour)
	c := group.NewCoordinator("shop", settings(), 41, last, clock.Wall{})
	c.SetMembers(asMembers(ms))
	taken, err := c.Take(context.Background())
	if err != nil || taken.Number != 42 || !taken.Time.After(last) {
		t.Errorf("taken %+v, %v: want number 42 after %v", taken, err, last)
	}
}

// The promise of the whole design: a chain of writes, each issued after the
// last was acknowledged, over all members and from several writers, is a
// prefix at every recovery point.
func TestEveryPointHoldsAPrefixOfEveryChain(t *testing.T) {
	const chains, links, rounds = 4, 300, 5
	ms := newMembers(t, 3)
	c := newCoordinator(ms, settings())
	ctx, cancel := context.WithCancel(context.Background())
	var writers, taker sync.WaitGroup
	var taken atomic.Int64
	for chain := range chains {
		writers.Go(func() {
			for link := uint64(0); link < links || taken.Load() < rounds; link++ {
				p := make([]byte, 512)
				binary.LittleEndian.PutUint64(p, link+1)
				// Each chain has one sector per member, and goes around.
				if err := ms[link%3].WriteAt(context.Background(), p, int64(chain)*512, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	taker.Go(func() {
		for ctx.Err() == nil {
			if _, err := c.Take(context.Background()); err != nil {
				t.Error(err)
			}
			taken.Add(1)
		}
	})
	writers.Wait()
	cancel()
	taker.Wait()
	points := group.Points("shop", asHistories(ms), nobody)
	if len(points) < rounds {
		t.Fatalf("only %d recovery points", len(points))
	}
	for _, p := range points {
		checkChains(t, ms, p, chains)
	}
}

func checkChains(t *testing.T, ms []*member, p group.Point, chains int) {
	t.Helper()
	newest := make([][]uint64, chains)
	for _, m := range ms {
		v, err := m.Store().View(p.Members[m.Volume()])
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, chains*512)
		if err := v.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		for chain := range chains {
			newest[chain] = append(newest[chain], binary.LittleEndian.Uint64(b[chain*512:]))
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for chain, links := range newest {
		last := max(links[0], links[1], links[2])
		// Going around, member i last got the greatest link <= last that is
		// i+1 modulo 3.
		for i, got := range links {
			want := uint64(0)
			for l := last; l > 0 && last-l < 3; l-- {
				if (l-1)%3 == uint64(i) {
					want = l
				}
			}
			if got != want {
				t.Fatalf("checkpoint %d, chain %d: member %d holds link %d of %v, want %d", p.Checkpoint, chain, i, got, links, want)
			}
		}
	}
}
