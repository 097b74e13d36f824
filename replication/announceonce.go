package replication

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
)

// AnnounceOnce announces a group to the peer that conn leads to, outside of the
// heartbeat: that it has ended, or that it rests. A refusal changes nothing at
// this site.
func AnnounceOnce(ctx context.Context, conn grpc.ClientConnInterface, peer string, a Announcement) error {
	if err := checkNames(a.Group, peer); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := replicationv1.NewReplicationClient(conn).Announce(ctx, encodeAnnouncement(a))
	if err != nil {
		return fromStatus(err, peer, a.Group, a.Term)
	}
	return checkVersion(resp.GetVersion())
}
