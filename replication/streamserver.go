package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/grpc"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// StreamServerConfig is what a StreamServer needs.
type StreamServerConfig struct {
	Site   string           // this site's name
	Volume journal.VolumeID // the engine's
	Orders Orders
	// Stores has the one store.
	Stores ReplicaStores
	// Peer returns the authenticated name of the site behind a call; behind a
	// gateway GatewayPeer makes one.
	Peer func(ctx context.Context) (string, error)
	// CreditBytes is how much a sender may send ahead of its acknowledgement;
	// 0: DefaultCreditBytes.
	CreditBytes int64
	Log         *slog.Logger
}

// Validate returns an error that names the first field that cannot be used.
func (c *StreamServerConfig) Validate() error {
	switch {
	case c.Site == "" || len(c.Site) > MaxNameBytes:
		return fmt.Errorf("stream server: site name has %d bytes, want 1 to %d", len(c.Site), MaxNameBytes)
	case c.Volume.IsZero():
		return errors.New("stream server: Volume must be set")
	case c.Orders == nil || c.Stores == nil || c.Peer == nil || c.Log == nil:
		return errors.New("stream server: Orders, Stores, Peer and Log must be set")
	case c.CreditBytes < 0:
		return fmt.Errorf("stream server: credit of %d bytes is negative", c.CreditBytes)
	}
	return nil
}

// StreamServer is the half of a Server that one engine runs: it takes the
// stream of the engine's volume, as its durable orders allow. Announcements
// are the controller's, and this refuses them. It runs inside a grpc.Server, which calls it
// concurrently, and owns one goroutine per stream until Close.
type StreamServer struct {
	replicationv1.UnimplementedReplicationServer
	orders Orders
	server Server
}

// NewStreamServer makes a StreamServer; nothing runs until a grpc.Server calls
// it.
func NewStreamServer(cfg StreamServerConfig) (*StreamServer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	codec, err := newCodec(false)
	if err != nil {
		return nil, err
	}
	creditBytes := cfg.CreditBytes
	if creditBytes == 0 {
		creditBytes = DefaultCreditBytes
	}
	return &StreamServer{orders: cfg.Orders, server: Server{
		admission: admission{site: cfg.Site, standings: cfg.Orders, stores: cfg.Stores, only: cfg.Volume, gate: newGate(),
			images: newPartialImages(), codec: codec, creditBytes: creditBytes},
		peer: cfg.Peer,
		log:  cfg.Log,
	}}, nil
}

// Register makes g serve s. g must have been made with ServerOptions, or its
// message limit is too small.
func (s *StreamServer) Register(g *grpc.Server) { replicationv1.RegisterReplicationServer(g, s) }

// Fence ends the volume's stream and makes durable that streams of a lower
// term than this are refused. On return no append is in progress, none of a
// lower term ever begins, and incomplete images are discarded. It may be
// repeated. ctx bounds the wait for an append in progress; on an error the
// fence may be durable or not, and the peer will connect again.
func (s *StreamServer) Fence(ctx context.Context, term group.Term) error {
	release, err := s.server.admission.fence(ctx, "")
	if err != nil {
		return fmt.Errorf("fence volume %s: %w", s.server.admission.only, err)
	}
	defer release()
	if err := s.orders.Fence(ctx, term); err != nil {
		return fmt.Errorf("fence volume %s at term %d: %w", s.server.admission.only, term, err)
	}
	return nil
}

// Change ends the volume's stream and calls change while no append is in
// progress and none begins. Whatever changes what Orders answers, or closes
// the store, does so inside. The error is change's, or that of the wait for
// an append in progress, which ctx bounds; change was not called then.
func (s *StreamServer) Change(ctx context.Context, change func(ctx context.Context) error) error {
	release, err := s.server.admission.shut(ctx, "")
	if err != nil {
		return fmt.Errorf("end the stream of volume %s: %w", s.server.admission.only, err)
	}
	defer release()
	return change(ctx)
}

// Close ends the stream, refuses new ones, waits until none uses the store,
// and discards incomplete images. It may be called before or after the
// grpc.Server is stopped, and more than once.
func (s *StreamServer) Close() error { return s.server.Close() }

// Replicate implements the RPC.
func (s *StreamServer) Replicate(stream replicationv1.Replication_ReplicateServer) error {
	return s.server.Replicate(stream)
}
