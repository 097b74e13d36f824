package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

// Member is one volume's engine as the coordinator needs it, in this process
// or in another one. Its methods may be called concurrently.
type Member interface {
	Volume() journal.VolumeID
	// Dirty reports whether anything changed since the last checkpoint, as
	// of some moment during the call.
	Dirty(ctx context.Context) (bool, error)
	// Prepare stops admitting changes and waits for those in flight; the
	// barrier lifts itself after hold.
	Prepare(ctx context.Context, round uint64, hold time.Duration) error
	// Commit appends the checkpoint and lifts the barrier.
	Commit(ctx context.Context, round uint64, c journal.Checkpoint) (journal.Position, error)
	// Abort lifts the barrier of the round if it holds. If the member cannot
	// be reached, the barrier lifts itself.
	Abort(ctx context.Context, round uint64)
	// Flush makes the checkpoint durable.
	Flush(ctx context.Context) error
}

// NearMember is a Member whose engine is in this process. Prepare is Shut and
// then Drain.
type NearMember interface {
	Member
	// Shut stops admitting changes, without waiting for those in flight; the
	// barrier lifts itself after hold.
	Shut(round uint64, hold time.Duration) error
	// Drain waits for the changes in flight.
	Drain(ctx context.Context) error
}

// Coordinator takes the checkpoints of one group. At most one round is under
// way at a time.
type Coordinator struct {
	name  string
	clock clock.Clock

	roundMu sync.Mutex // one round at a time
	round   uint64
	ended   bool // guarded by roundMu

	mu       sync.Mutex
	settings Settings
	members  []Member // ascending by volume
	last     journal.CheckpointNumber
	lastAt   time.Time // of the last checkpoint, never to be undercut
	quietTo  time.Time // until here nothing changed since the last checkpoint
	// suspended: the group is being given up, and no round is to append anything.
	suspended bool
	// due is set while the newest checkpoint is not known to be a recovery point of the
	// present members: others took part in it, or it did not come about, durably, in
	// each of them. Those that hold it count as clean, so that nothing else would tell.
	due   bool
	kick  chan struct{}
	stats CoordinatorStats
}

// CoordinatorStats counts rounds since the coordinator was made.
type CoordinatorStats struct {
	Committed uint64
	Idle      uint64 // nothing had changed: the newest point was extended
	Aborted   uint64
	LastError error
	// Stalls holds how long writes were held by the latest rounds, newest
	// last, at most maxStalls of them.
	Stalls []time.Duration
}

const maxStalls = 4096

// Taken is the outcome of a checkpoint round.
type Taken struct {
	Number journal.CheckpointNumber
	Time   time.Time
	// Stall is how long writes were held, at most.
	Stall time.Duration
	// Extended is set when nothing had changed: Number is the point before.
	Extended  bool
	Positions map[journal.VolumeID]journal.Position
}

// NewCoordinator makes a coordinator whose next checkpoint is numbered above
// last and timed after lastAt. Its rounds are numbered from the present time,
// so that a member never takes one for a round of an earlier coordinator. What became
// of that one's last round is not known, so that the first automatic round takes a
// checkpoint even if nothing was written.
func NewCoordinator(name string, settings Settings, last journal.CheckpointNumber, lastAt time.Time, c clock.Clock) *Coordinator {
	return &Coordinator{name: name, clock: c, settings: settings, last: last, lastAt: lastAt, due: true,
		round: uint64(c.Now().UnixNano()), kick: make(chan struct{}, 1)}
}

// Raise makes the next checkpoint come after one that a member holds: for
// members whose past was not known when the coordinator was made. Call it
// before SetMembers.
func (c *Coordinator) Raise(last journal.CheckpointNumber, lastAt time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, last)
	if lastAt.After(c.lastAt) {
		c.lastAt = lastAt
	}
}

// SetMembers changes who takes part from the next round on. It waits for a
// round under way. When others take part than before, the next automatic round
// takes a checkpoint even if nothing was written: the one before does not
// describe the present members.
func (c *Coordinator) SetMembers(members []Member) {
	c.roundMu.Lock()
	defer c.roundMu.Unlock()
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int { x, y := a.Volume(), b.Volume(); return slices.Compare(x[:], y[:]) })
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.members != nil && !slices.EqualFunc(c.members, members, func(a, b Member) bool { return a.Volume() == b.Volume() }) {
		c.due = true
	}
	c.members = members
	c.quietTo = time.Time{}
}

// Suspend has no round append a checkpoint any more, until Suspend(false): neither one that
// prepares its members from here on, nor one that has. Who gives a group up calls it
// before the members stop changes (engine.Engine.StopChanges), and when that is done nothing is
// appended. It waits for nothing.
func (c *Coordinator) Suspend(suspended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.suspended = suspended
}

func (c *Coordinator) isSuspended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.suspended
}

// End waits for a round under way and has none begin any more: Take is ErrBarrier. Who
// forks the members ends their coordinator first. A checkpoint that one member took before
// it forked and another one behind it would be of two states.
func (c *Coordinator) End() {
	c.roundMu.Lock()
	defer c.roundMu.Unlock()
	c.ended = true
}

// Configure applies new settings from the next round on.
func (c *Coordinator) Configure(settings Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings = settings
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// QuietUntil is the newest moment up to which nothing changed since the last
// checkpoint; zero if unknown.
func (c *Coordinator) QuietUntil() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.quietTo
}

// Last is the number of the newest checkpoint that was given out.
func (c *Coordinator) Last() journal.CheckpointNumber {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Stats returns the counts so far.
func (c *Coordinator) Stats() CoordinatorStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Stalls = slices.Clone(s.Stalls)
	return s
}

// Run takes a checkpoint every interval until ctx ends. A round that fails is
// counted and the next one tried: a missed checkpoint costs age of the newest
// recovery point, never I/O.
func (c *Coordinator) Run(ctx context.Context) error {
	for {
		c.mu.Lock()
		interval := c.settings.CheckpointInterval
		c.mu.Unlock()
		timer := c.clock.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-c.kick: // new interval
			timer.Stop()
		case <-timer.C():
			if _, err := c.take(ctx, false); err != nil && ctx.Err() == nil {
				c.mu.Lock()
				c.stats.LastError = err
				c.mu.Unlock()
			}
		}
	}
}

// Take makes a checkpoint now, even if nothing changed since the last. On
// return every member holds it durably. ErrBarrier if a member did not answer
// in time.
func (c *Coordinator) Take(ctx context.Context) (Taken, error) { return c.take(ctx, true) }

func (c *Coordinator) take(ctx context.Context, force bool) (Taken, error) {
	c.roundMu.Lock()
	defer c.roundMu.Unlock()
	if c.ended {
		return Taken{}, fmt.Errorf("take checkpoint of group %s, which is being changed: try again: %w", c.name, ErrBarrier)
	}
	c.mu.Lock()
	members, settings, last, lastAt := c.members, c.settings, c.last, c.lastAt
	force = force || c.due
	c.mu.Unlock()
	asked := c.clock.Now()
	if len(members) == 0 {
		return Taken{}, fmt.Errorf("take checkpoint of group %s: it has no members: %w", c.name, ErrBarrier)
	}
	// A member found clean now was clean when the check began, so all were
	// clean together at that moment, and no barrier is needed to say so.
	if !force {
		dirty, err := anyDirty(ctx, members)
		if err != nil {
			return Taken{}, fmt.Errorf("take checkpoint of group %s: %w", c.name, err)
		}
		if !dirty {
			c.extend(asked)
			return Taken{Number: last, Time: lastAt, Extended: true}, nil
		}
	}
	c.round++
	taken, err := c.barrier(ctx, c.round, members, settings.BarrierTimeout)
	if err != nil {
		c.mu.Lock()
		c.stats.Aborted++
		c.mu.Unlock()
		return Taken{}, fmt.Errorf("take checkpoint of group %s: %w", c.name, err)
	}
	if err := flushAll(ctx, members); err != nil {
		return Taken{}, fmt.Errorf("make checkpoint %d of group %s durable: %w", taken.Number, c.name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due = false
	return taken, nil
}

func (c *Coordinator) extend(to time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Idle++
	if c.last > 0 {
		c.quietTo = to
	}
}

// barrier runs one round: prepare everywhere, then commit everywhere, or
// abort everywhere.
func (c *Coordinator) barrier(ctx context.Context, round uint64, members []Member, timeout time.Duration) (Taken, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := c.clock.Now()
	toAll := each
	if allNear(members) {
		toAll = inTurn
	}
	if err := prepare(ctx, round, members, timeout); err != nil {
		c.abort(ctx, round, members)
		return Taken{}, fmt.Errorf("%w: %w", ErrBarrier, err)
	}
	// Looked at behind the last answer: members that stop changes later have the round
	// come to nothing by themselves.
	if c.isSuspended() {
		c.abort(ctx, round, members)
		return Taken{}, fmt.Errorf("%w: the group is being given up", ErrBarrier)
	}
	point := c.nextCheckpoint(members)
	var mu sync.Mutex
	positions := make(map[journal.VolumeID]journal.Position, len(members))
	err := toAll(members, func(m Member) error {
		pos, err := m.Commit(ctx, round, point)
		mu.Lock()
		defer mu.Unlock()
		positions[m.Volume()] = pos
		return err
	})
	stall := c.clock.Now().Sub(began)
	if err != nil {
		// Some members may hold the record. Without all it is no recovery
		// point, its number is not used again, and another round is due.
		return Taken{}, fmt.Errorf("%w: %w", ErrBarrier, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Committed++
	if len(c.stats.Stalls) == maxStalls {
		c.stats.Stalls = slices.Delete(c.stats.Stalls, 0, maxStalls/2)
	}
	c.stats.Stalls = append(c.stats.Stalls, stall)
	c.stats.LastError = nil
	return Taken{Number: point.Number, Time: point.Time, Stall: stall, Positions: positions}, nil
}

// prepare shuts all members and waits for what is in flight. Near ones are all
// shut before it waits for any.
func prepare(ctx context.Context, round uint64, members []Member, hold time.Duration) error {
	if !allNear(members) {
		return each(members, func(m Member) error { return m.Prepare(ctx, round, hold) })
	}
	for _, m := range members {
		if err := m.(NearMember).Shut(round, hold); err != nil {
			return err
		}
	}
	for _, m := range members {
		if err := m.(NearMember).Drain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// allNear reports whether every member is in this process. Then one goroutine
// carries out the round: each step takes microseconds, which is less than
// waking another goroutine for it, and writes are held meanwhile.
func allNear(members []Member) bool {
	return !slices.ContainsFunc(members, func(m Member) bool {
		_, near := m.(NearMember)
		return !near
	})
}

// abort lifts the barrier everywhere. The round's own time may be over, so it
// has as much again; what cannot be reached by then has lifted it by itself.
func (c *Coordinator) abort(ctx context.Context, round uint64, members []Member) {
	c.mu.Lock()
	timeout := c.settings.BarrierTimeout
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	_ = each(members, func(m Member) error { m.Abort(ctx, round); return nil })
}

// anyDirty asks all members at once.
func anyDirty(ctx context.Context, members []Member) (bool, error) {
	var dirty atomic.Bool
	err := each(members, func(m Member) error {
		changed, err := m.Dirty(ctx)
		if err != nil {
			return memberError(m.Volume(), err)
		}
		if changed {
			dirty.Store(true)
		}
		return nil
	})
	if dirty.Load() {
		return true, nil // whoever did not answer will fail the round
	}
	return false, err
}

// nextCheckpoint draws the next number and a time after the last one's.
func (c *Coordinator) nextCheckpoint(members []Member) journal.Checkpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now().UTC()
	if !now.After(c.lastAt) {
		now = c.lastAt.Add(1) // the clock was set back: times still rise
	}
	c.last++
	c.lastAt, c.quietTo, c.due = now, time.Time{}, true
	info := journal.CheckpointInfo{Group: c.name}
	for _, m := range members {
		info.Members = append(info.Members, m.Volume())
	}
	return journal.Checkpoint{Number: c.last, Time: now, CheckpointInfo: info}
}

// inTurn calls fn for one member after the other and joins their errors.
func inTurn(members []Member, fn func(Member) error) error {
	errs := make([]error, len(members))
	for i, m := range members {
		errs[i] = fn(m)
	}
	return errors.Join(errs...)
}

// each calls fn for all members at once and joins their errors.
func each(members []Member, fn func(Member) error) error {
	if len(members) == 1 {
		return fn(members[0])
	}
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = fn(m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func flushAll(ctx context.Context, members []Member) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range members {
		g.Go(func() error {
			if err := m.Flush(ctx); err != nil {
				return memberError(m.Volume(), err)
			}
			return nil
		})
	}
	return g.Wait()
}
