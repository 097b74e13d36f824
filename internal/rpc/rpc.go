package rpc

import (
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	// MinBackoff and MaxBackoff bound the pause before a reconnect. The longest
	// one is what a replica that came back may have to wait before it catches up;
	// one attempt a second is nothing to a peer that is there or not.
	MinBackoff = 100 * time.Millisecond
	MaxBackoff = time.Second
	// keepaliveTime and keepaliveTimeout find a dead peer: silence for the
	// first, then no answer to a ping for the second.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// ServerOptions are the options of a grpc.Server that Dial connects to. config
// must demand and verify client certificates.
func ServerOptions(config *tls.Config) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(credentials.NewTLS(config)),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	}
}

// Dial prepares a connection; it connects with the first call and again after
// every loss. A call to a machine that no longer answers ends within
// keepaliveTime and keepaliveTimeout. The caller closes the connection. More
// options come behind these.
func Dial(address string, config *tls.Config, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = MinBackoff, MaxBackoff
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: keepaliveTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
	}, more...)
	conn, err := grpc.NewClient(address, options...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return conn, nil
}
