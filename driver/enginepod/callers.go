package enginepod

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// callers says which role may call what: a gateway brings records, another
// engine reads an image, and everything else is the controller's.
func callers(method string) certs.Role {
	switch {
	case strings.HasPrefix(method, "/"+replicationv1.Replication_ServiceDesc.ServiceName+"/"):
		return certs.RoleGateway
	case method == enginev1.Engine_ReadImage_FullMethodName:
		return certs.RoleEngine
	}
	return certs.RoleController
}

// permit checks the caller's certificate, which the handshake has verified.
func permit(ctx context.Context, site, method string) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.Unauthenticated, "caller is not known")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return status.Error(codes.Unauthenticated, "caller shows no certificate")
	}
	wanted := []certs.Role{callers(method)}
	if wanted[0] == certs.RoleEngine {
		wanted = append(wanted, certs.RoleController)
	}
	if err := certs.RequireRole(site, wanted...)(info.State.PeerCertificates[0]); err != nil {
		return status.Error(codes.PermissionDenied, errors.Join(errors.New(method), err).Error())
	}
	return nil
}

func mayCall(site string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := permit(ctx, site, info.FullMethod); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

func mayStream(site string) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := permit(stream.Context(), site, info.FullMethod); err != nil {
			return err
		}
		return handler(srv, stream)
	}
}
