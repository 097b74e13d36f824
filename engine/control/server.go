package control

import (
	"context"
	"hash/crc32"
	"time"

	"google.golang.org/grpc"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	// watchPause is the least time between two messages of a Watch.
	watchPause = 250 * time.Millisecond
	// watchRepeat is the most time between two of a volume that is sent to a
	// peer: how that stands changes by itself, and nothing closes a channel.
	watchRepeat = time.Second
	// watchIdle is the most time between two of any volume: figures of its store
	// change by themselves as well, such as what is known to be damaged.
	watchIdle = 30 * time.Second
	// checkpointBatch bounds one message of Checkpoints, outlineBatch one that is an
	// outline.
	checkpointBatch = 1000
	outlineBatch    = 1 << 14
	// MaxImageChunkBytes bounds one message of ReadImage.
	MaxImageChunkBytes = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Server serves one volume's control API. It runs inside a grpc.Server, which
// calls it concurrently, and owns nothing. Of two controllers the newer one is heard
// (see FromController).
type Server struct {
	enginev1.UnimplementedEngineServer
	volume  Volume
	clock   clock.Clock
	callers *succession
}

// NewServer makes a server for a volume.
func NewServer(v Volume, c clock.Clock) *Server {
	return &Server{volume: v, clock: c, callers: newSuccession(v)}
}

// Register makes g serve s.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	g.RegisterService(s.callers.guard(enginev1.Engine_ServiceDesc), s)
}

// Watch implements the RPC.
func (s *Server) Watch(_ *enginev1.WatchRequest, stream enginev1.Engine_WatchServer) error {
	ctx := stream.Context()
	for {
		state, changed := s.volume.State()
		if err := stream.Send(encodeState(state)); err != nil {
			return err
		}
		pause := s.clock.NewTimer(watchPause)
		select {
		case <-pause.C():
		case <-ctx.Done():
			pause.Stop()
			return toStatus(ctx.Err())
		}
		if err := s.awaitChange(ctx, changed, state.Replication != nil); err != nil {
			return err
		}
	}
}

// awaitChange returns when a volume has changed, or when its state is to be told
// again.
func (s *Server) awaitChange(ctx context.Context, changed <-chan struct{}, isSent bool) error {
	most := watchIdle
	if isSent {
		most = watchRepeat
	}
	again := s.clock.NewTimer(most)
	defer again.Stop()
	select {
	case <-changed:
	case <-again.C():
	case <-ctx.Done():
		return toStatus(ctx.Err())
	}
	return nil
}

// Order implements the RPC.
func (s *Server) Order(ctx context.Context, req *enginev1.OrderRequest) (*enginev1.State, error) {
	o, err := decodeOrders(req)
	if err != nil {
		return nil, err
	}
	if err := s.volume.Order(ctx, o); err != nil {
		return nil, toStatus(err)
	}
	state, _ := s.volume.State()
	return encodeState(state), nil
}

// Withdraw implements the RPC.
func (s *Server) Withdraw(ctx context.Context, req *enginev1.WithdrawRequest) (*enginev1.State, error) {
	var orders *Orders
	if req.GetOrders() != nil {
		o, err := decodeOrders(req.GetOrders())
		if err != nil {
			return nil, err
		}
		if o.Attach != nil {
			return nil, invalid("orders to withdraw a device have one")
		}
		orders = &o
	}
	if err := s.volume.Withdraw(ctx, orders); err != nil {
		return nil, toStatus(err)
	}
	state, _ := s.volume.State()
	return encodeState(state), nil
}

// Fence implements the RPC.
func (s *Server) Fence(ctx context.Context, req *enginev1.FenceRequest) (*enginev1.FenceResponse, error) {
	if up := req.GetGivenUp(); up != 0 {
		return &enginev1.FenceResponse{}, toStatus(s.volume.Lift(ctx, up, req.GetTerm()))
	}
	return &enginev1.FenceResponse{}, toStatus(s.volume.Fence(ctx, req.GetTerm()))
}

// on runs fn with the open engine.
func on[T any](s *Server, fn func(*engine.Engine) (T, error)) (T, error) {
	eng, err := s.volume.Engine()
	var out T
	if err == nil {
		out, err = fn(eng)
	}
	return out, toStatus(err)
}

// Dirty implements the RPC.
func (s *Server) Dirty(context.Context, *enginev1.DirtyRequest) (*enginev1.DirtyResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.DirtyResponse, error) {
		return &enginev1.DirtyResponse{Dirty: e.Dirty()}, nil
	})
}

// maxHold bounds how long a barrier may hold writes, whoever asks.
const maxHold = 10 * time.Second

// Prepare implements the RPC.
func (s *Server) Prepare(ctx context.Context, req *enginev1.PrepareRequest) (*enginev1.PrepareResponse, error) {
	hold := req.GetHold().AsDuration()
	if req.GetRound() == 0 || hold <= 0 || hold > maxHold {
		return nil, invalid("round %d, hold %v: want a round above 0 and at most %v", req.GetRound(), hold, maxHold)
	}
	return on(s, func(e *engine.Engine) (*enginev1.PrepareResponse, error) {
		return &enginev1.PrepareResponse{}, e.Prepare(ctx, req.GetRound(), hold)
	})
}

// Commit implements the RPC.
func (s *Server) Commit(_ context.Context, req *enginev1.CommitRequest) (*enginev1.CommitResponse, error) {
	c, err := decodeCheckpoint(req.GetCheckpoint())
	if err != nil {
		return nil, err
	}
	return on(s, func(e *engine.Engine) (*enginev1.CommitResponse, error) {
		at, err := e.Commit(req.GetRound(), c)
		return &enginev1.CommitResponse{Position: encodePosition(at)}, err
	})
}

// Abort implements the RPC.
func (s *Server) Abort(_ context.Context, req *enginev1.AbortRequest) (*enginev1.AbortResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.AbortResponse, error) {
		e.Abort(req.GetRound())
		return &enginev1.AbortResponse{}, nil
	})
}

// Flush implements the RPC.
func (s *Server) Flush(ctx context.Context, _ *enginev1.FlushRequest) (*enginev1.FlushResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.FlushResponse, error) {
		return &enginev1.FlushResponse{}, e.Flush(ctx)
	})
}

// Fork implements the RPC.
func (s *Server) Fork(ctx context.Context, req *enginev1.ForkRequest) (*enginev1.ForkResponse, error) {
	if req.GetReason() == "" {
		return nil, invalid("a fork needs a reason")
	}
	if err := s.volume.Fork(ctx, decodePosition(req.GetAt()), req.GetReason()); err != nil {
		return nil, toStatus(err)
	}
	return &enginev1.ForkResponse{}, nil
}

// Bounds of a Hold, whoever asks.
const (
	maxHoldName = 128
	longestHold = 7 * 24 * time.Hour
)

// Hold implements the RPC.
func (s *Server) Hold(_ context.Context, req *enginev1.HoldRequest) (*enginev1.HoldResponse, error) {
	lasts := req.GetFor().AsDuration()
	if n := len(req.GetName()); n == 0 || n > maxHoldName || lasts <= 0 || lasts > longestHold {
		return nil, invalid("a hold for %v with a name of %d bytes: want at most %v and 1 to %d bytes", lasts, n, longestHold, maxHoldName)
	}
	return on(s, func(e *engine.Engine) (*enginev1.HoldResponse, error) {
		name, at := req.GetName(), decodePosition(req.GetAt())
		if number := journal.CheckpointNumber(req.GetCheckpoint()); number != 0 {
			return &enginev1.HoldResponse{}, e.Store().HoldCheckpoint(name, number, at, lasts)
		}
		return &enginev1.HoldResponse{}, e.Store().Hold(name, at, lasts)
	})
}

// Release implements the RPC.
func (s *Server) Release(_ context.Context, req *enginev1.ReleaseRequest) (*enginev1.ReleaseResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.ReleaseResponse, error) {
		e.Store().Release(req.GetName())
		return &enginev1.ReleaseResponse{}, nil
	})
}

// KeepPoint implements the RPC.
func (s *Server) KeepPoint(_ context.Context, req *enginev1.KeepPointRequest) (*enginev1.KeepPointResponse, error) {
	lasts := req.GetFor().AsDuration()
	if lasts <= 0 || lasts > longestHold {
		return nil, invalid("a point kept for %v: want at most %v", lasts, longestHold)
	}
	return &enginev1.KeepPointResponse{}, toStatus(s.volume.KeepPoint(decodePosition(req.GetAt()), lasts))
}

// Pin implements the RPC.
func (s *Server) Pin(_ context.Context, req *enginev1.PinRequest) (*enginev1.PinResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.PinResponse, error) {
		name, at := req.GetName(), decodePosition(req.GetAt())
		if number := journal.CheckpointNumber(req.GetCheckpoint()); number != 0 {
			return &enginev1.PinResponse{}, e.Store().PinCheckpoint(name, number, at)
		}
		return &enginev1.PinResponse{}, e.Store().Pin(name, at)
	})
}

// Unpin implements the RPC.
func (s *Server) Unpin(_ context.Context, req *enginev1.UnpinRequest) (*enginev1.UnpinResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.UnpinResponse, error) {
		return &enginev1.UnpinResponse{}, e.Store().Unpin(req.GetName())
	})
}

// SizeAt implements the RPC.
func (s *Server) SizeAt(_ context.Context, req *enginev1.SizeAtRequest) (*enginev1.SizeAtResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.SizeAtResponse, error) {
		size, err := e.Store().SizeAt(decodePosition(req.GetAt()))
		return &enginev1.SizeAtResponse{SizeBytes: size}, err
	})
}

// Resize implements the RPC.
func (s *Server) Resize(ctx context.Context, req *enginev1.ResizeRequest) (*enginev1.ResizeResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.ResizeResponse, error) {
		if e.SizeBytes() < req.GetSizeBytes() {
			if err := e.Resize(ctx, req.GetSizeBytes()); err != nil {
				return nil, err
			}
		}
		return &enginev1.ResizeResponse{SizeBytes: e.SizeBytes()}, nil
	})
}

// OpenView implements the RPC.
func (s *Server) OpenView(ctx context.Context, req *enginev1.OpenViewRequest) (*enginev1.OpenViewResponse, error) {
	export, err := s.volume.OpenView(ctx, req.GetId(), decodePosition(req.GetAt()))
	if err != nil {
		return nil, toStatus(err)
	}
	return &enginev1.OpenViewResponse{Export: export}, nil
}

// CloseView implements the RPC.
func (s *Server) CloseView(ctx context.Context, req *enginev1.CloseViewRequest) (*enginev1.CloseViewResponse, error) {
	return &enginev1.CloseViewResponse{}, toStatus(s.volume.CloseView(ctx, req.GetId()))
}

// ReadImage implements the RPC.
func (s *Server) ReadImage(req *enginev1.ReadImageRequest, stream enginev1.Engine_ReadImageServer) error {
	eng, err := s.volume.Engine()
	if err != nil {
		return toStatus(err)
	}
	end, err := s.volume.BeginCopy(eng)
	if err != nil {
		return toStatus(err)
	}
	defer end()
	at := decodePosition(req.GetAt())
	if pin := req.GetPin(); pin != "" {
		var ok bool
		if at, ok = eng.Store().Pins()[pin]; !ok {
			return toStatus(ErrNoPin)
		}
	}
	view, err := eng.Store().View(at)
	if err != nil {
		return toStatus(err)
	}
	err = sendImage(view, stream)
	if closing := view.Close(); err == nil {
		err = closing
	}
	return toStatus(err)
}

// sendImage sends a view's data, ascending.
func sendImage(view *journal.View, stream enginev1.Engine_ReadImageServer) error {
	if err := stream.Send(&enginev1.ImageChunk{SizeBytes: view.SizeBytes()}); err != nil {
		return err
	}
	buf := make([]byte, MaxImageChunkBytes)
	for off := int64(0); off < view.SizeBytes(); {
		start, length, err := view.NextData(off)
		if err != nil || length == 0 {
			return err
		}
		for end := start + length; start < end; {
			p := buf[:min(int64(len(buf)), end-start)]
			if err := view.ReadAt(p, start); err != nil {
				return err
			}
			// gRPC has encoded the message when Send returns, so buf is free.
			if err := stream.Send(&enginev1.ImageChunk{Offset: start, Data: p, Crc32C: crc32.Checksum(p, castagnoli)}); err != nil {
				return err
			}
			start += int64(len(p))
		}
		off = start
	}
	return nil
}
