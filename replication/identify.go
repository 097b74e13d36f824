package replication

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
)

// MaxSoftwareBytes bounds what a peer may call its version of Lockstep.
const MaxSoftwareBytes = 128

// Identity is what a site's entrance answers to Identify.
func Identity(software string) *replicationv1.IdentifyResponse {
	return &replicationv1.IdentifyResponse{Version: ProtocolVersion, Software: software[:min(len(software), MaxSoftwareBytes)]}
}

// Identify asks the peer that conn leads to which version of Lockstep it runs.
// Empty, and no error, for one that is too old to tell. ErrProtocolVersion when it
// speaks another version of the protocol.
func Identify(ctx context.Context, conn grpc.ClientConnInterface) (software string, err error) {
	resp, err := replicationv1.NewReplicationClient(conn).Identify(ctx, &replicationv1.IdentifyRequest{Version: ProtocolVersion})
	if status.Code(err) == codes.Unimplemented {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	text := resp.GetSoftware()
	return text[:min(len(text), MaxSoftwareBytes)], checkVersion(resp.GetVersion())
}

// Identify implements the RPC.
func (s *Server) Identify(context.Context, *replicationv1.IdentifyRequest) (*replicationv1.IdentifyResponse, error) {
	return Identity(s.software), nil
}
