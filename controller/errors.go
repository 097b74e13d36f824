package controller

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Errors of this package and of a Backend. A Backend wraps them with text for
// the user; other errors become Internal.
var (
	// ErrInvalid: a request that cannot be understood or is not supported.
	ErrInvalid = errors.New("invalid argument")
	// ErrNotFound: no such volume, snapshot, node or group.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken by something else.
	ErrExists = errors.New("already exists with other properties")
	// ErrOutOfRange: a size that cannot be had.
	ErrOutOfRange = errors.New("out of range")
	// ErrExhausted: no space or no slot left; may succeed when some is freed.
	ErrExhausted = errors.New("resource exhausted")
	// ErrBusy: another operation on the same object is in progress.
	ErrBusy = errors.New("another operation is in progress")
	// ErrInUse: the object is needed by something else, for example a volume
	// that is published or a device that is mounted.
	ErrInUse = errors.New("in use")
	// ErrPrecondition: the volumes or the site are not set up for the request.
	ErrPrecondition = errors.New("precondition not met")
	// ErrNotPrimary: this site does not serve the group.
	ErrNotPrimary = errors.New("this site is not primary for the group")
	// ErrNoPoint: there is no such recovery point. The text names the nearest.
	ErrNoPoint = errors.New("no such recovery point")
	// ErrPointGone: the moment is before the horizon. The text names the oldest point.
	ErrPointGone = errors.New("moment outside the recorded history")
	// ErrBarrier: a checkpoint was missed because a member did not answer in
	// time. Nothing happened; the call may be repeated.
	ErrBarrier = errors.New("checkpoint missed")
	// ErrUnavailable: something that is needed does not answer at present.
	ErrUnavailable = errors.New("unavailable")
	// ErrUntouched comes with another error: nothing was begun, and so nothing is to be
	// undone.
	ErrUntouched = errors.New("nothing was begun")
	// ErrDamaged: data that is needed is corrupt.
	ErrDamaged = errors.New("data is damaged")
	// ErrClosed: the server is shutting down.
	ErrClosed = errors.New("controller is shutting down")
	// errLeft: what failed, for the reason before it, could not be undone either, and
	// waits for a repeated call or the next start. Whatever the reason, the caller is to
	// ask again: one that takes the failure for final forgets what is left.
	errLeft = errors.New("what was begun is not undone yet, ask again")
)

// codeTable maps errors to the codes of the CSI specification's error tables;
// the first match counts.
var codeTable = []struct {
	err  error
	code codes.Code
}{
	{errLeft, codes.Aborted},
	{ErrInvalid, codes.InvalidArgument},
	{ErrNotFound, codes.NotFound},
	{ErrNoPoint, codes.NotFound},
	{ErrExists, codes.AlreadyExists},
	{ErrOutOfRange, codes.OutOfRange},
	{ErrPointGone, codes.OutOfRange},
	{ErrExhausted, codes.ResourceExhausted},
	{vfs.ErrNoSpace, codes.ResourceExhausted}, // of the catalog
	{ErrInUse, codes.FailedPrecondition},
	{ErrPrecondition, codes.FailedPrecondition},
	{ErrNotPrimary, codes.FailedPrecondition},
	{ErrDamaged, codes.DataLoss},
	{ErrBusy, codes.Aborted},
	{ErrBarrier, codes.Aborted},
	{ErrUnavailable, codes.Unavailable},
	{ErrClosed, codes.Unavailable},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{catalog.ErrNotFound, codes.NotFound},
}

// answer is the RPC boundary: it gives an error its code.
func answer[R any](response *R, err error) (*R, error) {
	if err == nil {
		return response, nil
	}
	return nil, status.Error(codeOf(err), err.Error())
}

func codeOf(err error) codes.Code {
	for _, row := range codeTable {
		if errors.Is(err, row.err) {
			return row.code
		}
	}
	return codes.Internal
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
