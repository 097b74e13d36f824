package node

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors of this package and of Devices; others become Internal.
var (
	// ErrInvalid: a request that cannot be understood or is not supported.
	ErrInvalid = errors.New("invalid argument")
	// ErrNotFound: the volume is not attached to this node, or not at the path.
	ErrNotFound = errors.New("not found")
	// ErrExists: the path holds the volume in another way.
	ErrExists = errors.New("already there with other properties")
	// ErrPrecondition: the volume is not in the state that the call needs.
	ErrPrecondition = errors.New("precondition not met")
	// ErrInUse: something of the volume is staged or published on this node.
	ErrInUse = fmt.Errorf("volume is in use: %w", ErrPrecondition)
	// ErrForeign: the device holds something that is not the wanted file
	// system. It was not touched.
	ErrForeign = errors.New("device is not blank and not of the wanted file system")
	// ErrDamaged: the file system needs a repair that is not made unasked.
	ErrDamaged = errors.New("file system is damaged")
	// ErrOutOfRange: the device is smaller than wanted.
	ErrOutOfRange = errors.New("out of range")
	// ErrUnavailable: something that is needed is not there at the moment. The
	// call changed nothing that a repetition would not do.
	ErrUnavailable = errors.New("not available at the moment")
	// ErrBusy: another call for the volume is in progress.
	ErrBusy = errors.New("another operation is in progress")
)

// codeTable maps errors to the codes of the CSI specification's error tables;
// the first match counts.
var codeTable = []struct {
	err  error
	code codes.Code
}{
	{ErrInvalid, codes.InvalidArgument},
	{ErrNotFound, codes.NotFound},
	{ErrExists, codes.AlreadyExists},
	{ErrPrecondition, codes.FailedPrecondition},
	{ErrForeign, codes.FailedPrecondition},
	{ErrDamaged, codes.DataLoss},
	{ErrOutOfRange, codes.OutOfRange},
	{ErrBusy, codes.Aborted},
	{ErrUnavailable, codes.Unavailable},
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
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
