package engine

import (
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/journal"
)

var (
	// ErrOutOfRange: a request reaches beyond the device's end.
	ErrOutOfRange = errors.New("request beyond the end of the device")
	// ErrUnaligned: an offset or a length is not a multiple of SectorBytes.
	ErrUnaligned = errors.New("request not aligned to 512 bytes")
	// ErrReadOnly: a changing request on a view, or on a volume that this
	// site does not hold as primary.
	ErrReadOnly = errors.New("device is read-only")
	// ErrNoSpace: the backing volume has no room for the journal to grow.
	// The device is intact and the request may be repeated.
	ErrNoSpace = errors.New("no space left on the backing volume")
	// ErrPoisoned: a write or a sync of the journal failed, so what is
	// durable is unknown. Every later request fails until the volume has
	// been closed and recovered. Wrapped around the first cause.
	ErrPoisoned = errors.New("volume poisoned by an earlier I/O error")
	// ErrClosed: the engine was closed.
	ErrClosed = errors.New("engine is closed")
	// ErrBarrierHeld: another checkpoint round holds the barrier.
	ErrBarrierHeld = errors.New("another checkpoint round holds the barrier")
	// ErrBarrierLost: the barrier's deadline passed, or changes were stopped, before Commit.
	ErrBarrierLost = errors.New("barrier was lifted before the checkpoint")
)

// mapError gives a store's error the meaning it has for a device.
func mapError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, journal.ErrFull):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, journal.ErrPoisoned):
		return fmt.Errorf("%w: %w", ErrPoisoned, err)
	case errors.Is(err, journal.ErrClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	case errors.Is(err, journal.ErrRange):
		return fmt.Errorf("%w: %w", ErrOutOfRange, err)
	}
	return err
}
