package gateway

import (
	"crypto/tls"

	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/replication"
)

// ServerOptions are the options of the grpc.Server that a Gateway is
// registered with. config must demand and verify client certificates of sites.
func ServerOptions(config *tls.Config) []grpc.ServerOption {
	return append(replication.ServerOptions(config),
		grpc.ForceServerCodecV2(frames{}),
		// Windows that do not grow, so that what waits here has a bound.
		grpc.StaticStreamWindowSize(StreamWindowBytes),
		grpc.StaticConnWindowSize(connWindowBytes),
	)
}

// Dial prepares a connection to an engine or controller of the gateway's own
// site. config must verify its certificate, and show one of role gateway.
func Dial(address string, config *tls.Config) (*grpc.ClientConn, error) {
	return replication.Dial(address, config,
		grpc.WithStaticStreamWindowSize(StreamWindowBytes),
		grpc.WithStaticConnWindowSize(StreamWindowBytes),
		// What was sent cannot be taken back, and a peer opens a new stream.
		grpc.WithDisableRetry(),
	)
}
