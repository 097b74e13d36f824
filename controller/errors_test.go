package controller

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

func TestAnswerGivesEachErrorItsCode(t *testing.T) {
	for err, want := range map[error]codes.Code{
		ErrInvalid: codes.InvalidArgument, ErrNotFound: codes.NotFound, ErrNoPoint: codes.NotFound,
		ErrExists: codes.AlreadyExists, ErrOutOfRange: codes.OutOfRange, ErrPointGone: codes.OutOfRange,
		ErrExhausted: codes.ResourceExhausted, vfs.ErrNoSpace: codes.ResourceExhausted, ErrInUse: codes.FailedPrecondition,
		ErrPrecondition: codes.FailedPrecondition, ErrNotPrimary: codes.FailedPrecondition,
		ErrDamaged: codes.DataLoss, ErrBusy: codes.Aborted, ErrBarrier: codes.Aborted,
		ErrUnavailable: codes.Unavailable, ErrClosed: codes.Unavailable,
		context.Canceled: codes.Canceled, context.DeadlineExceeded: codes.DeadlineExceeded,
		errors.New("anything else"): codes.Internal,
	} {
		wrapped := fmt.Errorf("create volume x: %w", fmt.Errorf("text for people: %w", err))
		response, got := answer(new(int), wrapped)
		if response != nil || status.Code(got) != want || status.Convert(got).Message() != wrapped.Error() {
			t.Errorf("%v became %v, %v, want %s with the same text", err, response, got, want)
		}
		if len(status.Convert(got).Details()) != 0 {
			t.Errorf("%v has details, which CSI forbids", got)
		}
	}
	if response, err := answer(new(int), nil); response == nil || err != nil {
		t.Errorf("no error became %v, %v", response, err)
	}
}
