package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// ErrNoEngine is returned by Engines for a volume that no engine serves now.
var ErrNoEngine = errors.New("volume has no engine")

// Engines finds the engines of a site's volumes. It may be called
// concurrently.
type Engines interface {
	// Resolve returns host:port of a volume's engine. ErrNoEngine, with what is
	// known of the reason, when there is none that could be connected to.
	Resolve(ctx context.Context, volume journal.VolumeID) (address string, err error)
}

// Sizes and times of a gateway.
const (
	// DefaultMaxStreams is how many streams a gateway carries.
	DefaultMaxStreams = 1024
	// DefaultHelloTimeout is how long a stream may stay without its first
	// message.
	DefaultHelloTimeout = 10 * time.Second
	// StreamWindowBytes is the HTTP/2 window of a stream on either side: what
	// may wait here, beside two messages, while an engine is slow.
	StreamWindowBytes = 1 << 20
	// connWindowBytes is that of a peer's connection, which carries all of its
	// streams.
	connWindowBytes = 16 << 20
	// DefaultRepairTimeout is how long a call of Repair may take here. A sender of this
	// version gives up as early.
	DefaultRepairTimeout = 20 * time.Second
	// resolveTimeout bounds the search for an engine.
	resolveTimeout = 5 * time.Second
)

// Config is what a Gateway needs.
type Config struct {
	Site    string // this site's name
	Engines Engines
	// DialEngine prepares a connection to an engine, with certificates of role
	// gateway; see Dial. One is made for each stream, and closed with it.
	DialEngine func(address string) (*grpc.ClientConn, error)
	// Controller leads to the site's controller.
	Controller grpc.ClientConnInterface
	// Peer returns the authenticated name of the site behind a call;
	// replication.TLSPeer makes one.
	Peer func(ctx context.Context) (string, error)
	// MaxStreams is how many streams are carried; more are refused.
	// 0: DefaultMaxStreams.
	MaxStreams int
	// HelloTimeout ends a stream without a first message. 0:
	// DefaultHelloTimeout.
	HelloTimeout time.Duration
	// RepairTimeout ends a call of Repair that is not answered, whatever its caller
	// would wait. 0: DefaultRepairTimeout.
	RepairTimeout time.Duration
	// Limiter bounds the bytes per second that all streams bring, as they
	// travel; nil: unlimited. Its burst must be at least
	// replication.MaxMessageBytes.
	Limiter *rate.Limiter
	// Software is the version of Lockstep, for people.
	Software string
	Clock    clock.Clock
	Log      *slog.Logger
}

// Validate returns an error that names the first field that cannot be used.
func (c *Config) Validate() error {
	switch {
	case c.Site == "" || len(c.Site) > replication.MaxNameBytes:
		return fmt.Errorf("gateway: site name has %d bytes, want 1 to %d", len(c.Site), replication.MaxNameBytes)
	case c.Engines == nil || c.DialEngine == nil || c.Controller == nil || c.Peer == nil || c.Clock == nil || c.Log == nil:
		return errors.New("gateway: Engines, DialEngine, Controller, Peer, Clock and Log must be set")
	case c.MaxStreams < 0 || c.HelloTimeout < 0 || c.RepairTimeout < 0:
		return errors.New("gateway: MaxStreams, HelloTimeout and RepairTimeout must not be negative")
	case c.Limiter != nil && c.Limiter.Limit() != rate.Inf && c.Limiter.Burst() < replication.MaxMessageBytes:
		return fmt.Errorf("gateway: limiter's burst is %d, want at least %d", c.Limiter.Burst(), replication.MaxMessageBytes)
	}
	return nil
}
