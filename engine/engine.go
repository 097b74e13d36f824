package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/lockstep-csi/lockstep/journal"
)

// Engine serves one open store as a Device. Its methods may be called
// concurrently.
type Engine struct {
	store    *journal.Store
	gate     gate
	barrier  barrier
	readOnly atomic.Bool
	stops    atomic.Uint64 // calls of StopChanges
	changes  atomic.Uint64 // changes that were admitted
	covered  atomic.Uint64 // of them, those before the last checkpoint
	relief   func(context.Context) bool
}

var _ Device = (*Engine)(nil)

// New makes an engine over an open store, which stays the caller's to close
// once no request is under way. A new engine counts as dirty, so that its
// group's first checkpoint covers what recovery found.
func New(store *journal.Store) *Engine {
	e := &Engine{store: store}
	e.changes.Store(1)
	return e
}

// Store returns the engine's store.
func (e *Engine) Store() *journal.Store { return e.store }

// Volume returns the volume's id.
func (e *Engine) Volume() journal.VolumeID { return e.store.Volume() }

// SizeBytes implements Device.
func (e *Engine) SizeBytes() int64 { return e.store.SizeBytes() }

// ReadOnly implements Device.
func (e *Engine) ReadOnly() bool { return e.readOnly.Load() }

// SetReadOnly decides whether changes are refused from now on. Those in
// flight are not affected.
func (e *Engine) SetReadOnly(readOnly bool) { e.readOnly.Store(readOnly) }

// SetRelief has a change that finds no room on the backing volume call a function
// first, which may make room by giving up what is worth less than history, and says
// whether it did. It is called with no lock held, concurrently perhaps. Set it before
// the first request.
func (e *Engine) SetRelief(relief func(ctx context.Context) bool) { e.relief = relief }

// ReadAt implements Device.
func (e *Engine) ReadAt(_ context.Context, p []byte, off int64) error {
	if err := e.check(off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	return mapError(e.store.ReadAt(p, off))
}

// TryReadAt is ReadAt if no disk has to be waited for; otherwise done is false
// and p undefined. Errors are those of ReadAt and come with done set.
func (e *Engine) TryReadAt(p []byte, off int64) (done bool, err error) {
	if err := e.check(off, int64(len(p))); err != nil || len(p) == 0 {
		return true, err
	}
	done, err = e.store.TryReadAt(p, off)
	return done || err != nil, mapError(err)
}

// WriteAt implements Device.
func (e *Engine) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return e.change(ctx, off, int64(len(p)), fua, func() error {
		_, err := e.store.Write(p, off)
		return err
	})
}

// Discard implements Device.
func (e *Engine) Discard(ctx context.Context, off, length int64) error {
	return e.change(ctx, off, length, false, func() error {
		_, err := e.store.Discard(off, length)
		return err
	})
}

// WriteZeroes implements Device.
func (e *Engine) WriteZeroes(ctx context.Context, off, length int64, fua bool) error {
	return e.change(ctx, off, length, fua, func() error {
		_, err := e.store.Zero(off, length)
		return err
	})
}

// change admits one change, appends it, and makes it durable where fua asks.
func (e *Engine) change(ctx context.Context, off, length int64, fua bool, appendTo func() error) error {
	if e.ReadOnly() {
		return ErrReadOnly
	}
	if err := e.check(off, length); err != nil || length == 0 {
		return err
	}
	err := e.admitWithRoom(ctx, appendTo)
	if err == nil && fua {
		err = e.store.Flush(ctx)
	}
	return mapError(err)
}

// admitWithRoom is admit where the backing volume may be full: the application's
// I/O fails last, so history is given up first, and it is tried once more.
func (e *Engine) admitWithRoom(ctx context.Context, appendTo func() error) error {
	err := e.admit(ctx, appendTo)
	if errors.Is(err, journal.ErrFull) && e.relief != nil && e.relief(ctx) {
		err = e.admit(ctx, appendTo)
	}
	if errors.Is(err, journal.ErrFull) {
		if _, reclaimErr := e.store.Reclaim(ctx); reclaimErr == nil {
			err = e.admit(ctx, appendTo)
		}
	}
	return err
}

// admit lets one change through the gate.
func (e *Engine) admit(ctx context.Context, appendTo func() error) error {
	if err := e.gate.enter(ctx); err != nil {
		return err
	}
	defer e.gate.leave()
	if e.ReadOnly() {
		return ErrReadOnly // demoted while it waited
	}
	e.changes.Add(1)
	return appendTo()
}

// Flush implements Device.
func (e *Engine) Flush(ctx context.Context) error { return mapError(e.store.Flush(ctx)) }

// BlockStatus implements Device.
func (e *Engine) BlockStatus(_ context.Context, off, length int64, limit int) ([]BlockRange, error) {
	if err := e.check(off, length); err != nil || length == 0 {
		return nil, err
	}
	ranges, err := e.store.Allocation(off, length, limit)
	return blockRanges(ranges), mapError(err)
}

// Resize grows the volume; durable on return. ErrNoSpace where there is no room
// for that, with the size as it was.
func (e *Engine) Resize(ctx context.Context, sizeBytes int64) error {
	if err := e.admitWithRoom(ctx, func() error { _, err := e.store.Resize(sizeBytes); return err }); err != nil {
		return fmt.Errorf("resize volume %s: %w", e.Volume(), mapError(err))
	}
	return nil
}

func (e *Engine) check(off, length int64) error { return checkRange(off, length, e.SizeBytes()) }

func checkRange(off, length, sizeBytes int64) error {
	if off%SectorBytes != 0 || length%SectorBytes != 0 {
		return ErrUnaligned
	}
	if off < 0 || length < 0 || off > sizeBytes-length {
		return ErrOutOfRange
	}
	return nil
}

func blockRanges(ranges []journal.AllocatedRange) []BlockRange {
	out := make([]BlockRange, len(ranges))
	for i, r := range ranges {
		out[i] = BlockRange(r)
	}
	return out
}
