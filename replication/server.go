package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"google.golang.org/grpc"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Site   string // this site's name
	Groups Groups
	Stores ReplicaStores
	// Peer returns the authenticated name of the site behind a call; TLSPeer
	// makes one.
	Peer func(ctx context.Context) (string, error)
	// CreditBytes is how much a sender may send ahead of its acknowledgement,
	// per volume; 0: DefaultCreditBytes.
	CreditBytes int64
	// Software is the version of Lockstep, for people.
	Software string
	Log      *slog.Logger
}

// Validate returns an error that names the first field that cannot be used.
func (c *ServerConfig) Validate() error {
	switch {
	case c.Site == "" || len(c.Site) > MaxNameBytes:
		return fmt.Errorf("replication server: site name has %d bytes, want 1 to %d", len(c.Site), MaxNameBytes)
	case c.Groups == nil || c.Stores == nil || c.Peer == nil || c.Log == nil:
		return errors.New("replication server: Groups, Stores, Peer and Log must be set")
	case c.CreditBytes < 0:
		return fmt.Errorf("replication server: credit of %d bytes is negative", c.CreditBytes)
	}
	return nil
}

// Server is the entrance for replication of a site that is one process: it
// takes what primaries send and feeds replica stores. Where a site is several
// processes, its controller has an AnnounceServer and each engine a
// StreamServer. It runs inside a grpc.Server, which calls it
// concurrently, and owns one goroutine per stream until Close.
type Server struct {
	replicationv1.UnimplementedReplicationServer
	admission admission
	peer      func(ctx context.Context) (string, error)
	software  string
	log       *slog.Logger

	mu      sync.Mutex
	closed  bool           // guarded by mu
	streams sync.WaitGroup // added to under mu while not closed
}

// NewServer makes a Server; nothing runs until a grpc.Server calls it.
func NewServer(cfg ServerConfig) (*Server, error) {
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
	return &Server{
		admission: admission{site: cfg.Site, standings: cfg.Groups, groups: cfg.Groups, stores: cfg.Stores, gate: newGate(),
			images: newPartialImages(), codec: codec, creditBytes: creditBytes},
		peer:     cfg.Peer,
		software: cfg.Software,
		log:      cfg.Log,
	}, nil
}

// Register makes g serve s. g must have been made with ServerOptions, or its
// message limit is too small.
func (s *Server) Register(g *grpc.Server) { replicationv1.RegisterReplicationServer(g, s) }

// Fence stops a group's incoming streams. When it returns, no append is in
// progress, and until release is called none begins, no stream is admitted,
// and no announcement is judged. To promote: Fence, make the higher term and
// the role primary durable, fork the members, release. Once the term is
// durable nothing with the old one is ever appended again, so that release
// may follow at any time after. ctx bounds the wait for an append in
// progress; on an error the group is not fenced, and its peer will connect
// again. Incomplete images of the group are discarded.
func (s *Server) Fence(ctx context.Context, group string) (release func(), err error) {
	return s.admission.fence(ctx, group)
}

// Pause is Fence for who closes a store and opens it again: incomplete images
// stay, and go on in streams behind release.
func (s *Server) Pause(ctx context.Context, group string) (release func(), err error) {
	return s.admission.shut(ctx, group)
}

// Close ends all streams, refuses new ones, waits until none uses a store, and
// discards incomplete images. It may be called before or after the
// grpc.Server is stopped, and more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.admission.gate.revokeAll(ErrClosed)
	s.streams.Wait()
	return s.admission.images.abort("")
}

// enter counts a call that uses stores.
func (s *Server) enter() (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	s.streams.Add(1)
	return s.streams.Done, nil
}

// Announce implements the RPC.
func (s *Server) Announce(ctx context.Context, req *replicationv1.AnnounceRequest) (*replicationv1.AnnounceResponse, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, toStatus(err)
	}
	defer leave()
	peer, err := s.peer(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	resp, err := s.admission.announce(ctx, peer, req)
	return resp, toStatus(err)
}

// Replicate implements the RPC.
func (s *Server) Replicate(stream replicationv1.Replication_ReplicateServer) error {
	leave, err := s.enter()
	if err != nil {
		return toStatus(err)
	}
	defer leave()
	ctx := stream.Context()
	peer, err := s.peer(ctx)
	if err != nil {
		return toStatus(err)
	}
	opening, err := stream.Recv()
	if err != nil {
		return err
	}
	pass, replica, err := s.admission.admit(ctx, peer, opening.GetHello())
	if err != nil {
		return toStatus(err)
	}
	defer pass.leave()
	err = s.serve(stream, pass, replica)
	s.log.Info("replica stream ended", "group", replica.hello.group, "volume", replica.hello.volume, "peer", peer, "cause", err)
	return toStatus(err)
}
