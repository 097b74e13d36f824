package replication

import (
	"context"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
)

// serve runs one admitted stream: it handles all messages that are at hand,
// then makes them durable with one flush and acknowledges them.
func (s *Server) serve(stream replicationv1.Replication_ReplicateServer, p *pass, r *replica) error {
	ctx := stream.Context()
	var reply *replicationv1.ReplicaMessage
	err := p.under(func() (err error) {
		reply, err = r.open(ctx, s.admission.creditBytes)
		return err
	})
	if err != nil {
		return err
	}
	if err := stream.Send(reply); err != nil {
		return err
	}
	queue, err := s.receive(stream)
	if err != nil {
		return err
	}
	for {
		select {
		case m, ok := <-queue:
			if !ok {
				return ctx.Err()
			}
			if err := s.digest(ctx, stream, p, r, m, queue); err != nil {
				return err
			}
		case <-p.revoked:
			return p.enter()
		}
	}
}

// digest handles m and what is queued behind it, and acknowledges.
func (s *Server) digest(ctx context.Context, stream replicationv1.Replication_ReplicateServer, p *pass, r *replica, m *replicationv1.SourceMessage, queue <-chan *replicationv1.SourceMessage) error {
	for m != nil {
		if err := p.under(func() error { return r.handle(ctx, m) }); err != nil {
			return err
		}
		select {
		case m = <-queue:
		default:
			m = nil
		}
	}
	var ack *replicationv1.ReplicaMessage
	err := p.under(func() (err error) {
		ack, err = r.settle(ctx)
		return err
	})
	if err != nil || ack == nil {
		return err
	}
	return stream.Send(ack)
}

// receive reads a stream into a bounded queue until it ends. gRPC can only
// interrupt a Recv by ending the call, so this goroutine outlives serve by a
// moment; Close waits for it.
func (s *Server) receive(stream replicationv1.Replication_ReplicateServer) (<-chan *replicationv1.SourceMessage, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	queue := make(chan *replicationv1.SourceMessage, maxQueuedMessages)
	go func() {
		defer leave()
		defer close(queue)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case queue <- m:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	return queue, nil
}
