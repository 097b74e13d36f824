package replication

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/lockstep-csi/lockstep/internal/rpc"
)

// streamWindowBytes is the HTTP/2 window of one stream: a full message may be
// under way while the one before it is digested.
const streamWindowBytes = 2 * MaxMessageBytes

// ServerOptions are the options of the grpc.Server that a Server is
// registered with. config must demand and verify client certificates.
func ServerOptions(config *tls.Config) []grpc.ServerOption {
	return append(rpc.ServerOptions(config), grpc.MaxRecvMsgSize(MaxMessageBytes), grpc.InitialWindowSize(streamWindowBytes))
}

// Dial prepares a connection to a peer's gateway, as rpc.Dial does. One
// connection serves all groups of a peer. The caller closes it after the
// Senders that use it have returned. More options come behind these.
func Dial(address string, config *tls.Config, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	return rpc.Dial(address, config, append([]grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes))}, more...)...)
}

// TLSPeer returns the function that reads the peer's site from the verified
// certificate of a call's connection. siteOf reads it from a certificate.
func TLSPeer(siteOf func(*x509.Certificate) (string, error)) func(ctx context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		cert, err := peerCertificate(ctx)
		if err != nil {
			return "", err
		}
		site, err := siteOf(cert)
		if err != nil {
			return "", fmt.Errorf("read site of peer: %w", err)
		}
		return site, nil
	}
}

// PeerKey is the metadata key in which a gateway tells the name of the site
// whose call it passes on.
const PeerKey = "lockstep-peer"

// GatewayPeer returns the function that reads the peer's site behind a
// gateway: from PeerKey, which is believed from a verified certificate that
// isGateway returns nil for, and from nobody else.
func GatewayPeer(isGateway func(*x509.Certificate) error) func(ctx context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		cert, err := peerCertificate(ctx)
		if err != nil {
			return "", err
		}
		if err := isGateway(cert); err != nil {
			return "", fmt.Errorf("believe what a call says of its site: %v: %w", err, ErrNotGateway)
		}
		told := metadata.ValueFromIncomingContext(ctx, PeerKey)
		if len(told) != 1 || told[0] == "" || len(told[0]) > MaxNameBytes {
			return "", fmt.Errorf("gateway tells %d sites in %s, want one: %w", len(told), PeerKey, ErrProtocol)
		}
		return told[0], nil
	}
}

// peerCertificate is the verified certificate of a call's connection.
func peerCertificate(ctx context.Context) (*x509.Certificate, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("call has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil, fmt.Errorf("peer %s is not authenticated by a certificate", p.Addr)
	}
	return info.State.PeerCertificates[0], nil
}
