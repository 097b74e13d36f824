package replication

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
)

// AnnounceServerConfig is what an AnnounceServer needs.
type AnnounceServerConfig struct {
	Site string // this site's name
	// Groups is the site's durable knowledge. Its Follow makes the term
	// durable and then orders the members' engines, which take no stream of
	// the term before they have the order.
	Groups Groups
	// Peer returns the authenticated name of the site behind a call; behind a
	// gateway GatewayPeer makes one.
	Peer func(ctx context.Context) (string, error)
}

// Validate returns an error that names the first field that cannot be used.
func (c *AnnounceServerConfig) Validate() error {
	switch {
	case c.Site == "" || len(c.Site) > MaxNameBytes:
		return fmt.Errorf("announce server: site name has %d bytes, want 1 to %d", len(c.Site), MaxNameBytes)
	case c.Groups == nil || c.Peer == nil:
		return errors.New("announce server: Groups and Peer must be set")
	}
	return nil
}

// AnnounceServer is the half of a Server that a cluster's controller runs: it
// judges announcements. Engines take the streams, and this refuses them. It runs inside a
// grpc.Server, which calls it concurrently, and owns no goroutine.
type AnnounceServer struct {
	replicationv1.UnimplementedReplicationServer
	admission admission
	peer      func(ctx context.Context) (string, error)
}

// NewAnnounceServer makes an AnnounceServer.
func NewAnnounceServer(cfg AnnounceServerConfig) (*AnnounceServer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &AnnounceServer{
		admission: admission{site: cfg.Site, standings: cfg.Groups, groups: cfg.Groups, gate: newGate(), images: newPartialImages()},
		peer:      cfg.Peer,
	}, nil
}

// Register makes g serve s.
func (s *AnnounceServer) Register(g *grpc.Server) { replicationv1.RegisterReplicationServer(g, s) }

// Hold waits until no announcement of the group is being judged; until
// release none is. Promoting holds: between the members' fences and the
// durable term another site's announcement must not come in between. ctx
// bounds the wait; on an error nothing is held.
func (s *AnnounceServer) Hold(ctx context.Context, group string) (release func(), err error) {
	return s.admission.gate.take(ctx, group)
}

// Announce implements the RPC.
func (s *AnnounceServer) Announce(ctx context.Context, req *replicationv1.AnnounceRequest) (*replicationv1.AnnounceResponse, error) {
	peer, err := s.peer(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	resp, err := s.admission.announce(ctx, peer, req)
	return resp, toStatus(err)
}
