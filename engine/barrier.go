package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// barrier is an engine's part in a checkpoint round. At most one round holds
// the gate; it is lifted by Commit, by Abort or by its deadline, whichever
// comes first.
type barrier struct {
	mu    sync.Mutex
	round uint64 // that holds the gate; 0 for none
	stops uint64 // what Engine.stops was when it began
	timer *time.Timer
}

// Prepare is Shut and then Drain. If ctx ends first the barrier is lifted and
// ctx's error returned.
func (e *Engine) Prepare(ctx context.Context, round uint64, hold time.Duration) error {
	if err := e.Shut(round, hold); err != nil {
		return err
	}
	err := e.Drain(ctx)
	if err != nil {
		e.Abort(round)
	}
	return err
}

// Shut stops admitting changes, without waiting for those in flight; see
// Drain. The barrier lifts itself after hold, whatever becomes of the
// coordinator. round must be above zero and unique.
func (e *Engine) Shut(round uint64, hold time.Duration) error {
	b := &e.barrier
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.round != 0 {
		return fmt.Errorf("prepare round %d on volume %s: round %d: %w", round, e.Volume(), b.round, ErrBarrierHeld)
	}
	b.round, b.stops = round, e.stops.Load()
	e.gate.shut()
	b.timer = time.AfterFunc(hold, func() { e.Abort(round) })
	return nil
}

// Drain waits until the changes in flight are done. After Shut there are no new
// ones. If ctx ends first its error is returned, and the barrier stays.
func (e *Engine) Drain(ctx context.Context) error {
	if e.gate.drain() {
		return nil
	}
	select {
	case <-e.gate.idle():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for changes in flight on volume %s: %w", e.Volume(), ctx.Err())
	}
}

// Commit appends the checkpoint of a prepared round and lifts the barrier.
// The record is durable after the next Flush. ErrBarrierLost if the barrier's
// deadline passed, or changes were stopped since: the volume then has no such checkpoint.
func (e *Engine) Commit(round uint64, c journal.Checkpoint) (journal.Position, error) {
	b := &e.barrier
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.isOf(round) {
		return journal.Position{}, fmt.Errorf("commit checkpoint %d on volume %s: %w", c.Number, e.Volume(), ErrBarrierLost)
	}
	defer b.lift(e)
	// Counted first and looked at then, so that either this sees a stop or the stop waits.
	e.gate.join()
	defer e.gate.leave()
	if e.stops.Load() != b.stops {
		return journal.Position{}, fmt.Errorf("commit checkpoint %d on volume %s, whose changes were stopped: %w", c.Number, e.Volume(), ErrBarrierLost)
	}
	covered := e.changes.Load()
	pos, err := e.store.Checkpoint(c)
	if err != nil {
		return journal.Position{}, fmt.Errorf("commit checkpoint %d on volume %s: %w", c.Number, e.Volume(), mapError(err))
	}
	e.covered.Store(covered)
	return pos, nil
}

// Abort lifts the barrier of a round, if it still holds.
func (e *Engine) Abort(round uint64) {
	b := &e.barrier
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isOf(round) {
		b.lift(e)
	}
}

// isOf reports whether a round holds the gate. mu must be held. Round 0 never does: that
// is none, and what a message without a number says.
func (b *barrier) isOf(round uint64) bool { return round != 0 && b.round == round }

func (b *barrier) lift(e *Engine) {
	b.timer.Stop()
	b.round = 0
	e.gate.open()
}

// Dirty reports whether anything changed since the last checkpoint.
func (e *Engine) Dirty() bool { return e.changes.Load() != e.covered.Load() }

// StopChanges makes the engine read-only and waits for the changes in flight.
// When it returns nil nothing more is appended through this engine, but the checkpoint of a
// round that is prepared behind it: a round that was prepared before comes to nothing.
func (e *Engine) StopChanges(ctx context.Context) error {
	e.SetReadOnly(true)
	e.stops.Add(1)
	select {
	case <-e.gate.idle():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop changes of volume %s: %w", e.Volume(), ctx.Err())
	}
}
