package fuse

import (
	"errors"
	"syscall"

	"github.com/lockstep-csi/lockstep/engine"
)

// errnoOf is the one table from what a device reports to what the kernel is
// told. Anything unknown is EIO: the block layer makes an I/O error of it.
func errnoOf(err error) syscall.Errno {
	switch {
	case err == nil:
		return 0
	// A poisoned device may wrap the ENOSPC that poisoned it, and repeating
	// the request is of no use, so this goes before ErrNoSpace.
	case errors.Is(err, engine.ErrPoisoned), errors.Is(err, engine.ErrClosed):
		return syscall.EIO
	case errors.Is(err, engine.ErrNoSpace):
		return syscall.ENOSPC
	case errors.Is(err, engine.ErrReadOnly):
		return syscall.EROFS
	case errors.Is(err, engine.ErrUnaligned), errors.Is(err, engine.ErrOutOfRange):
		return syscall.EINVAL
	default:
		return syscall.EIO
	}
}
