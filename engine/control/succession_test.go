package control

import (
	"context"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// callOf is the context of a call by a controller; 0: of a version without numbers.
func callOf(t *testing.T, number uint64) context.Context {
	if number == 0 {
		return t.Context()
	}
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs(controllerKey, strconv.FormatUint(number, 10)))
}

// TestTheNewestControllerIsHeard: the calls of those before it are refused, and end where they are
// under way.
func TestTheNewestControllerIsHeard(t *testing.T) {
	var s succession
	var running []context.Context
	for i, c := range []struct {
		number uint64
		code   codes.Code
	}{{0, codes.OK}, {5, codes.OK}, {5, codes.OK}, {4, codes.FailedPrecondition}, {7, codes.OK}, {5, codes.FailedPrecondition}, {0, codes.OK}, {7, codes.OK}} {
		ctx, leave, err := s.admit(callOf(t, c.number))
		if status.Code(err) != c.code {
			t.Errorf("call %d, of controller %d: %v, want %s", i, c.number, err, c.code)
		}
		if err == nil {
			defer leave()
			running = append(running, ctx)
		}
	}
	for i, over := range []bool{false, true, true, false, false, false} {
		ctx := running[i]
		if over {
			<-ctx.Done() // else the test hangs
		}
		if got := ctx.Err() != nil; got != over {
			t.Errorf("call %d that was admitted is over: %t, want %t", i, got, over)
		}
	}
	for _, text := range []string{"", "x", "0", "-1"} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(controllerKey, text))
		if _, _, err := s.admit(ctx); status.Code(err) != codes.InvalidArgument {
			t.Errorf("number %q: %v, want InvalidArgument", text, err)
		}
	}
}
