package gateway

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// maxRepairs bounds the calls of Repair that are carried for a peer at a time, of which each
// may hold a record in each direction; further ones wait.
const maxRepairs = 16

// placesOf are the places that a peer has for its calls of Repair. Those of one peer
// that hang are in nobody else's way. There are as many peers as the authority has signed.
func (g *Gateway) placesOf(peer string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	places := g.repairs[peer]
	if places == nil {
		places = make(chan struct{}, maxRepairs)
		g.repairs[peer] = places
	}
	return places
}

// repair passes one call of a volume on to its engine, over a connection of its own.
func (g *Gateway) repair(ctx context.Context, decode func(any) error) (any, error) {
	leave, err := g.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	peer, err := g.cfg.Peer(ctx)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.RepairTimeout)
	defer cancel()
	places := g.placesOf(peer)
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	req, resp := new(frame), new(frame)
	if err := decode(req); err != nil {
		return nil, err
	}
	volume, err := replication.RepairVolume(req.data.Materialize())
	if err != nil {
		return nil, refuse(err)
	}
	size := req.data.Len()
	if err := g.throttle(ctx, size); err != nil {
		return nil, err
	}
	conn, _, err := g.dial(ctx, volume)
	if err != nil {
		return nil, refuse(err)
	}
	defer func() { _ = conn.Close() }() // nothing is left to send or to read
	g.metrics.bytes.WithLabelValues(peer, "in").Add(float64(size))
	err = conn.Invoke(told(ctx, peer), replicationv1.Replication_Repair_FullMethodName, req, resp, grpc.ForceCodecV2(frames{}))
	if err != nil {
		return nil, unreachable(err, fmt.Sprintf("reach engine of volume %s at site %s", volume, g.cfg.Site))
	}
	g.metrics.bytes.WithLabelValues(peer, "out").Add(float64(resp.data.Len()))
	return resp, nil
}

// throttle waits for the rate limit. The limiter does not begin to wait where ctx would end
// first, so that ctx need not be over when it fails.
func (g *Gateway) throttle(ctx context.Context, size int) error {
	if g.cfg.Limiter == nil || g.cfg.Limiter.WaitN(ctx, size) == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	return status.Errorf(codes.ResourceExhausted, "the rate limit of the gateway of site %s leaves no time for a repair within %v", g.cfg.Site, g.cfg.RepairTimeout)
}

// dial finds a volume's engine and prepares a connection to it.
func (g *Gateway) dial(ctx context.Context, volume journal.VolumeID) (conn *grpc.ClientConn, address string, err error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	address, err = g.cfg.Engines.Resolve(ctx, volume)
	if err != nil {
		return nil, "", fmt.Errorf("find engine of volume %s at site %s: %w", volume, g.cfg.Site, err)
	}
	conn, err = g.cfg.DialEngine(address)
	return conn, address, err
}
