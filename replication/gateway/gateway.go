package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/replication"
)

// Gateway passes replication calls on. It runs inside a grpc.Server, which
// calls it concurrently, and implements prometheus.Collector.
type Gateway struct {
	cfg     Config
	metrics *metrics

	mu     sync.Mutex
	closed bool // guarded by mu
	// repairs has, by peer, a channel with one for each call of Repair under way; guarded by mu.
	repairs map[string]chan struct{}
	// streams are those that are carried, with what ends each; guarded by mu.
	streams map[*stream]context.CancelCauseFunc
	calls   sync.WaitGroup // of 0 added to under mu only, while not closed
}

// errStopping ends what a gateway carries when it stops; the peer connects
// again, to another gateway or to the next.
var errStopping = status.Error(codes.Unavailable, "gateway is stopping")

// New makes a Gateway; nothing runs until a grpc.Server calls it.
func New(cfg Config) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = DefaultMaxStreams
	}
	if cfg.HelloTimeout == 0 {
		cfg.HelloTimeout = DefaultHelloTimeout
	}
	if cfg.RepairTimeout == 0 {
		cfg.RepairTimeout = DefaultRepairTimeout
	}
	return &Gateway{cfg: cfg, metrics: newMetrics(), repairs: make(map[string]chan struct{}), streams: make(map[*stream]context.CancelCauseFunc)}, nil
}

// Register makes s serve g. s must have been made with ServerOptions: it
// serves nothing else.
func (g *Gateway) Register(s *grpc.Server) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: replicationv1.Replication_ServiceDesc.ServiceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Announce", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return g.announce(ctx, decode)
		}}, {MethodName: "Identify", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return g.identify(decode)
		}}, {MethodName: "Repair", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return g.repair(ctx, decode)
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Replicate", ServerStreams: true, ClientStreams: true, Handler: func(_ any, up grpc.ServerStream) error {
			return g.replicate(up)
		}}},
	}, g)
}

// Close ends all streams so that their peers connect again, refuses new calls,
// and returns when none is in progress. It may be called more than once.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	for _, end := range g.streams {
		end(errStopping)
	}
	g.mu.Unlock()
	g.calls.Wait()
}

// enter counts a call.
func (g *Gateway) enter() (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errStopping
	}
	g.calls.Add(1)
	return g.calls.Done, nil
}

// carry counts a stream, which end ends; the error says why it cannot be
// taken.
func (g *Gateway) carry(s *stream, end context.CancelCauseFunc) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errStopping
	}
	if len(g.streams) >= g.cfg.MaxStreams {
		return nil, status.Errorf(codes.ResourceExhausted, "gateway of site %s carries %d streams, which is all that it may", g.cfg.Site, len(g.streams))
	}
	g.streams[s] = end
	g.calls.Add(1)
	return func() {
		g.mu.Lock()
		delete(g.streams, s)
		g.mu.Unlock()
		g.calls.Done()
	}, nil
}

// announce passes one announcement on to the controller.
func (g *Gateway) announce(ctx context.Context, decode func(any) error) (any, error) {
	leave, err := g.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	req, resp := new(frame), new(frame)
	if err := decode(req); err != nil {
		return nil, err
	}
	peer, err := g.cfg.Peer(ctx)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	err = g.cfg.Controller.Invoke(told(ctx, peer), replicationv1.Replication_Announce_FullMethodName, req, resp, grpc.ForceCodecV2(frames{}))
	g.metrics.announcements.WithLabelValues(peer, status.Code(err).String()).Inc()
	if err != nil {
		return nil, unreachable(err, "reach controller of site "+g.cfg.Site)
	}
	return resp, nil
}

// identify answers for the site.
func (g *Gateway) identify(decode func(any) error) (any, error) {
	req := new(frame)
	if err := decode(req); err != nil {
		return nil, err
	}
	req.data.Free()
	out, err := proto.Marshal(replication.Identity(g.cfg.Software))
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &frame{mem.BufferSlice{mem.SliceBuffer(out)}}, nil
}

// told is a context whose calls tell the peer's name and nothing else.
func told(ctx context.Context, peer string) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(replication.PeerKey, peer))
}

// unreachable says what could not be reached, where that is the error; what
// the other side answered is returned as it is.
func unreachable(err error, what string) error {
	st, _ := status.FromError(err)
	if st.Code() == codes.Unavailable && len(st.Details()) == 0 {
		return status.Errorf(codes.Unavailable, "%s: %s", what, st.Message())
	}
	return err
}

// replicate carries one stream, and counts it.
func (g *Gateway) replicate(up grpc.ServerStream) error {
	peer, err := g.cfg.Peer(up.Context())
	if err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	// Everything of the stream ends with this context, whose cause is then
	// what the sender gets.
	ctx, end := context.WithCancelCause(up.Context())
	defer end(nil)
	s := &stream{gateway: g, peer: peer, up: up, end: end}
	leave, err := g.carry(s, end)
	if err != nil {
		g.metrics.ended(peer, err)
		return err
	}
	defer leave()
	g.metrics.streams.WithLabelValues(peer).Inc()
	defer g.metrics.streams.WithLabelValues(peer).Dec()
	err = s.run(ctx)
	g.metrics.ended(peer, err)
	g.cfg.Log.Info("stream ended", "peer", peer, "volume", s.volume, "engine", s.address, "cause", err)
	return err
}

// refuse turns an error of the routing into what the peer gets.
func refuse(err error) error {
	switch {
	case errors.Is(err, ErrNoEngine):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.Unavailable, fmt.Sprintf("find engine: %v", err))
	}
	return replication.Status(err)
}
