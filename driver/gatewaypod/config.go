package gatewaypod

import (
	"errors"
	"fmt"
	"log/slog"

	"k8s.io/client-go/kubernetes"

	"github.com/lockstep-csi/lockstep/internal/certs"
)

// Config is what Run needs.
type Config struct {
	Namespace string // of the driver
	Listen    string // host:port that other sites connect to
	// PeerTLSDir holds the certificate that other sites know this one by;
	// TLSDir the one that names the role gateway inside the cluster. Both are
	// of one site, which is this one.
	PeerTLSDir, TLSDir string
	// Peers are the sites that may connect; none: all that the authority of
	// PeerTLSDir has signed.
	Peers      []string
	Controller string // host:port of the controller's replication service
	EnginePort int    // of every engine's replication service, 1 to 65535
	// HealthAddr and MetricsAddr are host:port of each over plain HTTP; empty:
	// not served.
	HealthAddr, MetricsAddr string
	MaxStreams              int // 0: gateway.DefaultMaxStreams
	// RateLimit bounds the bytes per second that all streams bring; 0:
	// unlimited.
	RateLimit int64
	Version   string // of this program; for people
	Client    kubernetes.Interface
	Log       *slog.Logger // nil: slog.Default()
}

// Validate reports the first field that cannot be used; it has no effects.
func (c *Config) Validate() error {
	switch {
	case c.Namespace == "":
		return errors.New("gateway configuration: the namespace is missing")
	case c.Listen == "" || c.Controller == "":
		return errors.New("gateway configuration: Listen and Controller must be set")
	case c.PeerTLSDir == "" || c.TLSDir == "":
		return errors.New("gateway configuration: PeerTLSDir and TLSDir must be set")
	case c.EnginePort < 1 || c.EnginePort > 65535:
		return fmt.Errorf("gateway configuration: engine port %d is not one", c.EnginePort)
	case c.HealthAddr != "" && c.HealthAddr == c.MetricsAddr:
		return errors.New("gateway configuration: HealthAddr and MetricsAddr must differ")
	case c.MaxStreams < 0 || c.RateLimit < 0:
		return errors.New("gateway configuration: MaxStreams and RateLimit must not be negative")
	case c.Client == nil:
		return errors.New("gateway configuration: Client must be set")
	}
	for _, peer := range c.Peers {
		if err := certs.ValidateSite(peer); err != nil {
			return fmt.Errorf("gateway configuration: peer: %w", err)
		}
	}
	return nil
}
