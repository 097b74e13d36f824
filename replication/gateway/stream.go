package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// stream is one volume's stream on its way through a gateway.
type stream struct {
	gateway *Gateway
	peer    string
	up      grpc.ServerStream       // from and to the sender
	end     context.CancelCauseFunc // ends both sides

	volume  journal.VolumeID
	address string // of its engine
}

var replicateDesc = grpc.StreamDesc{StreamName: "Replicate", ServerStreams: true, ClientStreams: true}

// run routes the stream by its first message and passes messages on until
// either side, or ctx, ends it. The error is what the sender gets.
func (s *stream) run(ctx context.Context) error {
	arrived := s.receive(ctx)
	first, err := s.first(ctx, arrived)
	if err != nil {
		return err
	}
	if s.volume, err = first.opening(); err != nil {
		return refuse(err)
	}
	conn, address, err := s.gateway.dial(ctx, s.volume)
	s.address = address
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return refuse(err)
	}
	defer func() { _ = conn.Close() }() // nothing is left to send or to read
	down, err := conn.NewStream(told(ctx, s.peer), &replicateDesc, replicationv1.Replication_Replicate_FullMethodName, grpc.ForceCodecV2(frames{}))
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return unreachable(err, fmt.Sprintf("reach engine of volume %s at site %s", s.volume, s.gateway.cfg.Site))
	}
	var sending sync.WaitGroup
	sending.Go(func() { s.passUp(ctx, down, first, arrived) })
	err = s.passBack(ctx, down)
	s.end(err)
	sending.Wait()
	return err
}

// receive reads the sender's messages into a channel without a buffer. The
// channel is closed when the sender has ended its half in order; everything
// else ends the stream. gRPC can only interrupt a RecvMsg by ending the call,
// so this goroutine outlives run by a moment; Close waits for it.
func (s *stream) receive(ctx context.Context) <-chan *frame {
	arrived := make(chan *frame)
	s.gateway.calls.Go(func() {
		for {
			f := new(frame)
			err := s.up.RecvMsg(f)
			if errors.Is(err, io.EOF) {
				close(arrived)
				return
			}
			if err != nil {
				s.end(err)
				return
			}
			select {
			case arrived <- f:
			case <-ctx.Done():
				return
			}
		}
	})
	return arrived
}

// first waits for the first message.
func (s *stream) first(ctx context.Context, arrived <-chan *frame) (*frame, error) {
	timer := s.gateway.cfg.Clock.NewTimer(s.gateway.cfg.HelloTimeout)
	defer timer.Stop()
	select {
	case f, ok := <-arrived:
		if !ok {
			return nil, refuse(fmt.Errorf("stream ends before its first message: %w", replication.ErrProtocol))
		}
		return f, nil
	case <-timer.C():
		return nil, status.Errorf(codes.DeadlineExceeded, "no first message within %v", s.gateway.cfg.HelloTimeout)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// passUp passes the sender's messages on until ctx or the stream ends. Why
// the engine has ended it is for passBack to find out.
func (s *stream) passUp(ctx context.Context, down grpc.ClientStream, f *frame, arrived <-chan *frame) {
	in := s.gateway.metrics.bytes.WithLabelValues(s.peer, "in")
	for {
		size := f.data.Len()
		if l := s.gateway.cfg.Limiter; l != nil && l.WaitN(ctx, size) != nil {
			return
		}
		if down.SendMsg(f) != nil {
			return
		}
		in.Add(float64(size))
		var ok bool
		select {
		case f, ok = <-arrived:
		case <-ctx.Done():
			return
		}
		if !ok {
			_ = down.CloseSend() // what comes of it is in the answer
			return
		}
	}
}

// passBack passes the engine's messages back until it ends the stream, and
// returns the status that it ended with, or why the stream was ended here.
func (s *stream) passBack(ctx context.Context, down grpc.ClientStream) error {
	out := s.gateway.metrics.bytes.WithLabelValues(s.peer, "out")
	for {
		f := new(frame)
		err := down.RecvMsg(f)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return unreachable(err, fmt.Sprintf("reach engine of volume %s at site %s", s.volume, s.gateway.cfg.Site))
		}
		size := f.data.Len()
		if err := s.up.SendMsg(f); err != nil {
			return err
		}
		out.Add(float64(size))
	}
}
