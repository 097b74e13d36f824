package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// member is a volume as its group works with it. Each call goes to the engine
// that answers at that moment.
type member struct {
	fleet *Fleet
	v     *volume
	id    journal.VolumeID
}

var _ groups.Member = member{}

// client is the engine now; ErrNoEngine.
func (m member) client() (*control.Client, error) {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	if m.v.client == nil {
		return nil, fmt.Errorf("%s: %w: %w", m.v.record.title(), ErrNoEngine, orUnknown(m.v.failure))
	}
	return m.v.client, nil
}

func (m member) Volume() journal.VolumeID { return m.id }

func (m member) Dirty(ctx context.Context) (bool, error) {
	c, err := m.client()
	if err != nil {
		return false, err
	}
	return c.Dirty(ctx)
}

func (m member) Prepare(ctx context.Context, round uint64, hold time.Duration) error {
	c, err := m.client()
	if err != nil {
		return err
	}
	return c.Prepare(ctx, round, hold)
}

func (m member) Commit(ctx context.Context, round uint64, point journal.Checkpoint) (journal.Position, error) {
	c, err := m.client()
	if err != nil {
		return journal.Position{}, err
	}
	return c.Commit(ctx, round, point)
}

func (m member) Abort(ctx context.Context, round uint64) {
	if c, err := m.client(); err == nil {
		c.Abort(ctx, round)
	}
}

func (m member) Flush(ctx context.Context) error {
	c, err := m.client()
	if err != nil {
		return err
	}
	return c.Flush(ctx)
}

func (m member) Fork(ctx context.Context, at journal.Position, reason string) error {
	c, err := m.client()
	if err != nil {
		return err
	}
	if err := c.Fork(ctx, at, reason); err != nil {
		return err
	}
	return m.fleet.noteArrival(ctx, m.v) // before the operation is over
}

func (m member) Pin(ctx context.Context, name string, at journal.Position) error {
	c, err := m.client()
	if err != nil {
		return err
	}
	return c.Pin(ctx, name, at)
}

func (m member) PinCheckpoint(ctx context.Context, name string, number journal.CheckpointNumber, at journal.Position) error {
	c, err := m.client()
	if err != nil {
		return err
	}
	return c.PinCheckpoint(ctx, name, number, at)
}

func (m member) Unpin(ctx context.Context, name string) error {
	if m.fleet.isAbsent(m.v) {
		return nil
	}
	c, err := m.client()
	if err != nil {
		return err
	}
	return c.Unpin(ctx, name)
}

func (m member) Hold(ctx context.Context, name string, at journal.Position, number journal.CheckpointNumber, d time.Duration) error {
	c, err := m.client()
	if err != nil {
		return err
	}
	return c.Hold(ctx, name, at, number, d)
}

func (m member) SetWritable(ctx context.Context, writable bool) error {
	if m.fleet.isAbsent(m.v) {
		return nil // nobody can write to it
	}
	if writable {
		m.setWithdrawn(false)
	}
	_, err := m.fleet.reorder(ctx, m.v, func(o *control.Orders) { o.Writable = writable })
	return err
}

func (m member) SetRetention(ctx context.Context, _ group.Settings) error {
	if m.fleet.isAbsent(m.v) {
		return nil // it has nothing to keep
	}
	_, err := m.fleet.reorder(ctx, m.v, nil)
	return err
}

// Newest asks behind a flush: a checkpoint that an earlier coordinator appended
// and did not live to make durable counts as well. So does one of a group that
// the volume was in before: within a store numbers rise. Where no member knows of one any
// more, and history was given up, a replica may: see groups.NumberAbove.
func (m member) Newest(ctx context.Context) (journal.Checkpoint, error) {
	if m.fleet.isAbsent(m.v) {
		return journal.Checkpoint{}, fmt.Errorf("%s: %w", members{m.fleet}.Title(m.id), groups.ErrAbsent)
	}
	c, err := m.client()
	if err != nil {
		return journal.Checkpoint{}, err
	}
	if err := c.Flush(ctx); err != nil {
		return journal.Checkpoint{}, err
	}
	var told journal.Checkpoint
	var horizon journal.Position
	m.fleet.mu.Lock()
	if s := m.v.state.Store; s != nil {
		told, horizon = s.Newest, s.Horizon
	}
	m.fleet.mu.Unlock()
	held, err := c.Checkpoints(ctx, "", told.Number, 0)
	if err != nil {
		return journal.Checkpoint{}, err
	}
	if len(held) > 0 {
		return held[len(held)-1], nil
	}
	if told.Number == 0 && horizon.Seq > 0 && !m.fleet.mayKnowCheckpoint(m.fleet.recordOf(m.v).Group) {
		told.Number = groups.NumberAbove(m.fleet.cfg.Clock.Now())
	}
	return told, nil
}

// mayKnowCheckpoint reports whether a member of a group holds a checkpoint, or has yet to tell.
func (f *Fleet) mayKnowCheckpoint(name string) bool {
	volumes := f.inGroup(name, false)
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(volumes, func(v *volume) bool {
		if s := v.state.Store; s != nil {
			return s.Newest.Number > 0
		}
		return !v.tellsLocked() && !v.isAbsentLocked()
	})
}

func (m member) setWithdrawn(withdrawn bool) {
	m.fleet.mu.Lock()
	defer m.fleet.mu.Unlock()
	m.v.withdrawn = withdrawn
}

// Withdraw has the engine give the device of an attached volume up, if its node
// knows of no use of it.
func (m member) Withdraw(ctx context.Context) error {
	a := m.fleet.recordOf(m.v).Attach
	if a == nil {
		return nil
	}
	if a.Leaving {
		return fmt.Errorf("it is being detached from node %s: %w", a.Node, groups.ErrInUse)
	}
	m.setWithdrawn(true)
	// Nobody has writes to make: the same orders also stop them, which is to come.
	_, err := m.fleet.send(ctx, m.v, func(o *control.Orders) { o.Writable = false },
		func(c *control.Client, ctx context.Context, o control.Orders) (control.State, error) {
			return c.Withdraw(ctx, &o)
		})
	return inUse(a.Node, err)
}

// inUse gives an engine's refusal to withdraw its meaning for groups.
func inUse(node string, err error) error {
	if errors.Is(err, control.ErrDeviceInUse) {
		return fmt.Errorf("it is attached to node %s: scale down what uses it first: %w: %w", node, groups.ErrInUse, err)
	}
	return err
}

// Idle returns groups.ErrInUse while anything uses a device of a group, as far as
// the nodes can see. It changes nothing, and is no promise.
func (f *Fleet) Idle(ctx context.Context, name string) error {
	for _, v := range f.inGroup(name, false) {
		r := f.recordOf(v)
		if r.Attach == nil {
			continue
		}
		client, err := f.connected(ctx, v)
		if err == nil {
			_, err = client.Withdraw(ctx, nil)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.title(), inUse(r.Attach.Node, err))
		}
	}
	return nil
}

func (m member) CheckUnused(context.Context) error {
	if a := m.fleet.recordOf(m.v).Attach; a != nil {
		return fmt.Errorf("it is attached to node %s: scale down what uses it first: %w", a.Node, groups.ErrInUse)
	}
	return nil
}
