package control

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
)

// controllerKey is the metadata key in which a controller tells its number, and replacedKey that
// of the trailer by which an engine tells it that there is a newer one.
const (
	controllerKey = "lockstep-controller"
	replacedKey   = "lockstep-replaced"
)

// FromController returns conn with calls that tell which controller makes them: each has a
// higher number than the one before it. An engine that a controller has called does nothing
// any more for those of lower numbers. replaced is called, perhaps often, when one says so, with the
// number that it has heard; 0 from an engine of a version that does not tell it.
func FromController(conn grpc.ClientConnInterface, number uint64, replaced func(newest uint64)) grpc.ClientConnInterface {
	return numbered{conn, strconv.FormatUint(number, 10), replaced}
}

type numbered struct {
	conn     grpc.ClientConnInterface
	number   string
	replaced func(newest uint64)
}

// Invoke implements grpc.ClientConnInterface.
func (n numbered) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var trailer metadata.MD
	err := n.conn.Invoke(metadata.AppendToOutgoingContext(ctx, controllerKey, n.number), method, args, reply, append(slices.Clone(opts), grpc.Trailer(&trailer))...)
	n.look(trailer)
	return err
}

// NewStream implements grpc.ClientConnInterface.
func (n numbered) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := n.conn.NewStream(metadata.AppendToOutgoingContext(ctx, controllerKey, n.number), desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return looking{stream, n}, nil
}

func (n numbered) look(trailer metadata.MD) {
	if told := trailer.Get(replacedKey); len(told) > 0 {
		newest, _ := strconv.ParseUint(told[0], 10, 64) // else it is of a version before
		n.replaced(newest)
	}
}

// looking is a stream whose end is looked at.
type looking struct {
	grpc.ClientStream
	of numbered
}

// RecvMsg implements grpc.ClientStream.
func (l looking) RecvMsg(m any) error {
	err := l.ClientStream.RecvMsg(m)
	if err != nil {
		l.of.look(l.Trailer())
	}
	return err
}

// succession is which controller is the newest that has called. One that was replaced and does
// not know it yet can save nothing, and so changes no orders; but a fork, a pin, or a checkpoint
// is no order. The number is durable before anything is done for its controller, so that an engine
// that starts again in its place does not hear one of before that comes back sooner.
type succession struct {
	numbers numbers
	noting  chan struct{} // has one in it while the number is being noted
	noted   atomic.Uint64 // what numbers is known to have

	mu     sync.Mutex
	newest uint64                  // guarded by mu; 0: none has told
	reign  context.Context         // guarded by mu; of the newest one's calls
	end    context.CancelCauseFunc // guarded by mu; ends reign
}

// numbers is where the number of the newest controller is durable; Volume's.
type numbers interface {
	Controller() uint64
	NoteController(number uint64) error
}

func newSuccession(n numbers) *succession {
	s := &succession{numbers: n, noting: make(chan struct{}, 1), newest: n.Controller()}
	s.noted.Store(s.newest)
	s.reign, s.end = context.WithCancelCause(context.Background())
	return s
}

// errReplaced is what a controller gets that is not the newest one.
var errReplaced = status.Error(codes.FailedPrecondition, "a newer controller has called this engine, which takes nothing of the one before any more")

// admit lets a call begin, unless a newer controller has called, and ends its context when one
// does. One without a number, of a version before, is let in.
func (s *succession) admit(ctx context.Context) (_ context.Context, leave func(), err error) {
	told := metadata.ValueFromIncomingContext(ctx, controllerKey)
	if len(told) == 0 {
		return ctx, func() {}, nil
	}
	number, err := strconv.ParseUint(told[len(told)-1], 10, 64)
	if err != nil || number == 0 {
		return nil, nil, invalid("controller number %q", told[len(told)-1])
	}
	ctx, leave, err = s.hear(ctx, number)
	if err != nil {
		return nil, nil, err
	}
	if err := s.note(ctx, number); err != nil {
		err = s.endOf(ctx, err)
		leave()
		return nil, nil, err
	}
	return ctx, leave, nil
}

func (s *succession) hear(ctx context.Context, number uint64) (_ context.Context, leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number < s.newest {
		return nil, nil, tellReplaced(ctx, s.newest)
	}
	if number > s.newest {
		s.end(errReplaced)
		s.newest = number
		s.reign, s.end = context.WithCancelCause(context.Background())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	forget := context.AfterFunc(s.reign, func() { cancel(errReplaced) })
	return ctx, func() { forget(); cancel(nil) }, nil
}

// note makes a controller's number durable, once. Where the disk does not take it, because it is full for
// one, the controller is heard all the same: it may be about to make room. The next call tries again.
func (s *succession) note(ctx context.Context, number uint64) error {
	if s.noted.Load() >= number {
		return nil
	}
	select {
	case s.noting <- struct{}{}:
	case <-ctx.Done():
		return toStatus(ctx.Err())
	}
	defer func() { <-s.noting }()
	if s.noted.Load() < number && s.numbers.NoteController(number) == nil { // who fails says so in the log
		s.noted.Store(number)
	}
	return nil
}

// endOf is the error of a call that was admitted, which a newer controller may have ended.
func (s *succession) endOf(ctx context.Context, err error) error {
	if err == nil || !errors.Is(context.Cause(ctx), errReplaced) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return tellReplaced(ctx, s.newest)
}

func tellReplaced(ctx context.Context, newest uint64) error {
	_ = grpc.SetTrailer(ctx, metadata.Pairs(replacedKey, strconv.FormatUint(newest, 10))) // without it the error says so to people
	return errReplaced
}

// guard returns the service with each call admitted first, behind what a server's interceptors
// say of the caller. A copy of an image is another engine's, and no controller's.
func (s *succession) guard(desc grpc.ServiceDesc) *grpc.ServiceDesc {
	desc.Methods, desc.Streams = slices.Clone(desc.Methods), slices.Clone(desc.Streams)
	for i, method := range desc.Methods {
		desc.Methods[i].Handler = func(srv any, ctx context.Context, decode func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
			return method.Handler(srv, ctx, decode, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				admitted := func(ctx context.Context, req any) (any, error) {
					ctx, leave, err := s.admit(ctx)
					if err != nil {
						return nil, err
					}
					defer leave()
					resp, err := handler(ctx, req)
					return resp, s.endOf(ctx, err)
				}
				if around == nil {
					return admitted(ctx, req)
				}
				return around(ctx, req, info, admitted)
			})
		}
	}
	for i, stream := range desc.Streams {
		if "/"+desc.ServiceName+"/"+stream.StreamName == enginev1.Engine_ReadImage_FullMethodName {
			continue
		}
		desc.Streams[i].Handler = func(srv any, calls grpc.ServerStream) error {
			ctx, leave, err := s.admit(calls.Context())
			if err != nil {
				return err
			}
			defer leave()
			return s.endOf(ctx, stream.Handler(srv, within{calls, ctx}))
		}
	}
	return &desc
}

// within is a stream with another context.
type within struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (w within) Context() context.Context { return w.ctx }
