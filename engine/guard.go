package engine

import (
	"context"
	"fmt"
)

// Guarded is a device that refuses changes while somebody else may make them:
// the live volume as tools see it, which must not be written to while it is
// attached, because whoever mounted it would not know.
type Guarded struct {
	Device
	// Blocked reports whether changes are refused now. It may be called
	// concurrently.
	Blocked func() bool

	changes gate // never shut: it counts those in flight
}

// ReadOnly implements Device.
func (g *Guarded) ReadOnly() bool { return g.Blocked() || g.Device.ReadOnly() }

// Settle waits, once Blocked reports true, for the changes that were let through
// before and may still wait for a barrier or for room. When it returns nil none comes
// any more, until Blocked reports false again.
func (g *Guarded) Settle(ctx context.Context) error {
	select {
	case <-g.changes.idle():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for what tools write: %w", ctx.Err())
	}
}

// change lets one change through.
func (g *Guarded) change(ctx context.Context, apply func() error) error {
	if g.ReadOnly() {
		return ErrReadOnly // and is not counted, however often it comes
	}
	if err := g.changes.enter(ctx); err != nil {
		return err
	}
	defer g.changes.leave()
	if g.ReadOnly() {
		return ErrReadOnly // blocked, and perhaps settled, since it was asked
	}
	return apply()
}

// WriteAt implements Device.
func (g *Guarded) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return g.change(ctx, func() error { return g.Device.WriteAt(ctx, p, off, fua) })
}

// Discard implements Device.
func (g *Guarded) Discard(ctx context.Context, off, length int64) error {
	return g.change(ctx, func() error { return g.Device.Discard(ctx, off, length) })
}

// WriteZeroes implements Device.
func (g *Guarded) WriteZeroes(ctx context.Context, off, length int64, fua bool) error {
	return g.change(ctx, func() error { return g.Device.WriteZeroes(ctx, off, length, fua) })
}
