package loop

import "errors"

var (
	// ErrNotFound: no loop device is attached to the file, or the device is
	// attached to nothing.
	ErrNotFound = errors.New("loop device not found")
	// ErrBusy: the device is in use (mounted, or claimed by another driver),
	// or the kernel gave every free device to someone else first.
	ErrBusy = errors.New("loop device is busy")
	// ErrInvalid: a block size or a path that no loop device can have.
	ErrInvalid = errors.New("invalid loop device configuration")
)
