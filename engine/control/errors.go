package control

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/journal"
)

// failures maps errors to gRPC codes and to the reason that carries them over
// the wire, and back. The first that matches counts.
var failures = []struct {
	err    error
	code   codes.Code
	reason enginev1.Failure_Reason
}{
	{ErrStaleOrder, codes.FailedPrecondition, enginev1.Failure_STALE_ORDER},
	{ErrNoStore, codes.FailedPrecondition, enginev1.Failure_NO_STORE},
	{engine.ErrBarrierHeld, codes.Aborted, enginev1.Failure_BARRIER_HELD},
	{engine.ErrBarrierLost, codes.Aborted, enginev1.Failure_BARRIER_LOST},
	{engine.ErrReadOnly, codes.FailedPrecondition, enginev1.Failure_READ_ONLY},
	{ErrDeviceInUse, codes.FailedPrecondition, enginev1.Failure_DEVICE_IN_USE},
	{ErrLeaseLost, codes.FailedPrecondition, enginev1.Failure_LEASE_LOST},
	{journal.ErrCorrupt, codes.DataLoss, enginev1.Failure_CORRUPT},
	{journal.ErrVersion, codes.FailedPrecondition, enginev1.Failure_VERSION},
	{engine.ErrPoisoned, codes.Unavailable, enginev1.Failure_POISONED},
	{journal.ErrPoisoned, codes.Unavailable, enginev1.Failure_POISONED},
	{engine.ErrNoSpace, codes.ResourceExhausted, enginev1.Failure_FULL},
	{journal.ErrFull, codes.ResourceExhausted, enginev1.Failure_FULL},
	{journal.ErrHorizon, codes.OutOfRange, enginev1.Failure_HORIZON},
	{journal.ErrUnknownPosition, codes.NotFound, enginev1.Failure_UNKNOWN_POSITION},
	{journal.ErrDiverged, codes.FailedPrecondition, enginev1.Failure_DIVERGED},
	{journal.ErrPinExists, codes.AlreadyExists, enginev1.Failure_PIN_EXISTS},
	{journal.ErrExists, codes.AlreadyExists, enginev1.Failure_EXISTS},
	{ErrNoPin, codes.NotFound, enginev1.Failure_NO_PIN},
	{ErrNoView, codes.NotFound, enginev1.Failure_NO_VIEW},
	{engine.ErrOutOfRange, codes.InvalidArgument, enginev1.Failure_RANGE},
	{journal.ErrRange, codes.InvalidArgument, enginev1.Failure_RANGE},
	{engine.ErrClosed, codes.Unavailable, enginev1.Failure_CLOSED},
	{journal.ErrClosed, codes.Unavailable, enginev1.Failure_CLOSED},
	// No reason: the caller can do no more about these than try again.
	{context.Canceled, codes.Canceled, enginev1.Failure_REASON_UNSPECIFIED},
	{context.DeadlineExceeded, codes.DeadlineExceeded, enginev1.Failure_REASON_UNSPECIFIED},
}

// toStatus turns an error into what gRPC returns to the caller.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, f := range failures {
		if !errors.Is(err, f.err) {
			continue
		}
		st := status.New(f.code, err.Error())
		if f.reason == enginev1.Failure_REASON_UNSPECIFIED {
			return st.Err()
		}
		if detailed, err := st.WithDetails(&enginev1.Failure{Reason: f.reason}); err == nil {
			return detailed.Err()
		}
		return st.Err()
	}
	return status.Error(codes.Internal, err.Error())
}

// remoteError is an error that an engine answered with. Its text ends with the
// sentinel's already. Where an engine and its store have a sentinel each for
// one thing, it matches both.
type remoteError struct {
	message string
	kinds   []error
}

func (e *remoteError) Error() string   { return e.message }
func (e *remoteError) Unwrap() []error { return e.kinds }

func kindsOf(reason enginev1.Failure_Reason) []error {
	var kinds []error
	for _, f := range failures {
		if f.reason == reason && reason != enginev1.Failure_REASON_UNSPECIFIED {
			kinds = append(kinds, f.err)
		}
	}
	return kinds
}

// fromStatus turns what an engine answered back into an error that matches the
// same sentinel as on the other side.
func fromStatus(volume journal.VolumeID, err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, detail := range st.Details() {
		failure, ok := detail.(*enginev1.Failure)
		if !ok {
			continue
		}
		if kinds := kindsOf(failure.GetReason()); len(kinds) > 0 {
			return &remoteError{message: fmt.Sprintf("engine of volume %s: %s", volume, st.Message()), kinds: kinds}
		}
	}
	switch st.Code() {
	case codes.Canceled:
		return fmt.Errorf("call engine of volume %s: %w", volume, context.Canceled)
	case codes.DeadlineExceeded:
		return fmt.Errorf("call engine of volume %s: %w", volume, context.DeadlineExceeded)
	}
	return fmt.Errorf("call engine of volume %s: %w", volume, err)
}
