package control

import (
	"context"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// callOf is the context of a call by a controller; 0: of a version without numbers.
func callOf(t *testing.T, number uint64) context.Context {
	if number == 0 {
		return t.Context()
	}
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs(controllerKey, strconv.FormatUint(number, 10)))
}

// noted is numbers in memory.
type noted struct {
	number uint64
	full   bool
}

func (n *noted) Controller() uint64 { return n.number }

func (n *noted) NoteController(number uint64) error {
	if n.full {
		return vfs.ErrNoSpace
	}
	n.number = max(n.number, number)
	return nil
}

// An engine that starts again in its place hears none that was replaced, whoever calls first; nor does
// it leave the newest one's calls undone where it cannot note its number.
func TestTheNewestControllerIsHeardByTheNextProcess(t *testing.T) {
	n := &noted{}
	admit := func(s *succession, number uint64) codes.Code {
		_, leave, err := s.admit(callOf(t, number))
		if err == nil {
			leave()
		}
		return status.Code(err)
	}
	first := newSuccession(n)
	if code := admit(first, 5); code != codes.OK || n.number != 5 {
		t.Fatalf("controller 5: %s, and %d is noted", code, n.number)
	}
	n.full = true
	if code := admit(first, 7); code != codes.OK || n.number != 5 {
		t.Errorf("controller 7, on a full disk: %s, and %d is noted", code, n.number)
	}
	n.full = false
	if code := admit(first, 7); code != codes.OK || n.number != 7 {
		t.Errorf("controller 7 again: %s, and %d is noted", code, n.number)
	}
	next := newSuccession(n)
	if code := admit(next, 5); code != codes.FailedPrecondition {
		t.Errorf("controller 5, which calls the next process first: %s", code)
	}
	if code := admit(next, 7); code != codes.OK {
		t.Errorf("controller 7 calls the next process: %s", code)
	}
}

// TestTheNewestControllerIsHeard: the calls of those before it are refused, and end where they are
// under way.
func TestTheNewestControllerIsHeard(t *testing.T) {
	s := newSuccession(&noted{})
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
