package nbd

import (
	"context"
	"errors"

	"github.com/lockstep-csi/lockstep/engine"
)

// statusOf maps a device's error to the protocol's (section "Error values").
// Anything unnamed is an I/O error: the client must not take the request for
// done.
func statusOf(cmd command, err error) status {
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, engine.ErrPoisoned):
		return statusIO
	case errors.Is(err, engine.ErrReadOnly):
		return statusNotPermitted
	case errors.Is(err, engine.ErrNoSpace):
		return statusNoSpace
	case errors.Is(err, engine.ErrOutOfRange):
		if cmd == cmdWrite || cmd == cmdWriteZeroes {
			return statusNoSpace
		}
		return statusInvalid
	case errors.Is(err, engine.ErrUnaligned):
		return statusInvalid
	case errors.Is(err, engine.ErrClosed), errors.Is(err, context.Canceled):
		return statusShutdown
	default:
		return statusIO
	}
}
