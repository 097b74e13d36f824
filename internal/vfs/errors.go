package vfs

import (
	"errors"
	"syscall"
)

var (
	// ErrNotExist: the named file or directory is not there.
	ErrNotExist = errors.New("file does not exist")
	// ErrExist: Create or Link found the name taken.
	ErrExist = errors.New("file already exists")
	// ErrLocked: another process, or another holder in this one, has the lock.
	ErrLocked = errors.New("locked by another holder")
	// ErrNoSpace: the file system (or its quota) is full. What was there
	// before the call is unchanged, except that a failed WriteAt may have
	// written a part.
	ErrNoSpace = errors.New("no space left on the file system")
	// ErrNotEmpty: Remove, or Rename over a directory, found names in it.
	ErrNotEmpty = errors.New("directory is not empty")
	// ErrReadOnly: the file was opened with OpenReadOnly.
	ErrReadOnly = errors.New("file is open for reading only")
	// ErrNoDirect: the file system has no direct writes, or not of that alignment.
	ErrNoDirect = errors.New("the file system has no such direct writes")
	// ErrClosed: the file, lock or database was closed before the call.
	ErrClosed = errors.New("file is closed")
	// ErrRefused: a Gated had no permission for a change, which was not tried. It is
	// wrapped around the reason.
	ErrRefused = errors.New("the change is not permitted")
	// ErrCrashed: a simulated file system lost its power, or its process,
	// before or during the call. Nothing is known of what the call did.
	ErrCrashed = errors.New("file system has crashed")
)

// opError says which operation on which file failed. It matches both the
// sentinel (if the cause has one) and the cause.
type opError struct {
	op, name string
	sentinel error // nil when the cause has no meaning of its own here
	cause    error
}

func (e *opError) Error() string { return e.op + " " + e.name + ": " + e.cause.Error() }

func (e *opError) Unwrap() []error {
	if e.sentinel == nil {
		return []error{e.cause}
	}
	return []error{e.sentinel, e.cause}
}

// wrap returns err as an opError, or nil. The errno is taken out of the
// wrappers of package os, which would repeat the operation and the name.
func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return &opError{op: op, name: name, cause: err}
	}
	return &opError{op: op, name: name, sentinel: sentinelOf(errno), cause: errno}
}

func sentinelOf(errno syscall.Errno) error {
	switch errno {
	case syscall.ENOENT:
		return ErrNotExist
	case syscall.EEXIST:
		return ErrExist
	case syscall.ENOSPC, syscall.EDQUOT:
		return ErrNoSpace
	case syscall.ENOTEMPTY:
		return ErrNotEmpty
	case syscall.EWOULDBLOCK:
		return ErrLocked
	default:
		return nil
	}
}
