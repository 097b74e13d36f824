package holder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// Config is what a holder needs to know.
type Config struct {
	// Socket is the absolute path of the Unix socket to listen on, at most
	// 107 bytes. A stale one is replaced.
	Socket string
	// Dir is an absolute directory, made if need be, for the mount points
	// (one directory per volume) and the lock that makes the holder the only
	// one of its directory.
	Dir string
	// IdleTimeout is how long the holder stays without a volume and without a
	// connection; default DefaultIdleTimeout, negative means for ever.
	IdleTimeout time.Duration
	// CallTimeout is the longest that any request may take, whatever its
	// client allows; default DefaultCallTimeout.
	CallTimeout time.Duration
	// Keep is for a holder that is part of a process which is replaced while
	// devices are in use. At the end of Run volumes stay as they are: engines
	// have the descriptors too and bring them to the next holder of Dir
	// (see Keeper). Shutdown is refused, and nobody may detach what another
	// client serves.
	Keep bool
	// EndGrace is how long a holder with Keep goes on after the end of its
	// context for devices that are in use and have no engine at that moment;
	// default DefaultEndGrace.
	EndGrace time.Duration
	// TroubleGrace is how long an engine has to say that it cannot serve its device
	// for whoever waits for that to be told; default DefaultTroubleGrace. What passes by
	// itself, as while the engine before it ends, has passed by then.
	TroubleGrace time.Duration
	// Group is the id of a group whose processes may connect, beside this user's;
	// 0: none.
	Group int
	// Transport is how requests of new mounts are to come where an engine does not
	// say; default fuse.TransportDevice. It is a wish, see AttachConfig.
	Transport fuse.Transport
	// Unused calls do while nothing of a volume is staged or published on this node
	// and nothing begins to be, or returns ErrBusy without calling it: the part of
	// a withdraw that the holder cannot see. nil: only do is called.
	Unused func(ctx context.Context, volume, device string, do func() error) error
	// Turn calls do while no volume is being staged or published, or the reverse, by
	// the number that its device has; or returns an error without calling it. nil:
	// only do is called.
	Turn func(ctx context.Context, volume string, do func() error) error
	// Log is told what no caller learns; default: nobody.
	Log *slog.Logger
}

// Defaults of Config.
const (
	DefaultIdleTimeout  = time.Minute
	DefaultCallTimeout  = 30 * time.Second
	DefaultEndGrace     = 20 * time.Second
	DefaultTroubleGrace = 2 * time.Second
)

// maxSocketPathBytes is what fits into sockaddr_un with its terminator.
const maxSocketPathBytes = 107

func (c Config) withDefaults() Config {
	if c.IdleTimeout == 0 {
		c.IdleTimeout = DefaultIdleTimeout
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = DefaultCallTimeout
	}
	if c.EndGrace == 0 {
		c.EndGrace = DefaultEndGrace
	}
	if c.TroubleGrace == 0 {
		c.TroubleGrace = DefaultTroubleGrace
	}
	if c.Transport == "" {
		c.Transport = fuse.TransportDevice
	}
	if c.Unused == nil {
		c.Unused = func(_ context.Context, _, _ string, do func() error) error { return do() }
	}
	if c.Turn == nil {
		c.Turn = func(_ context.Context, _ string, do func() error) error { return do() }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports what is wrong with a configuration. It has no effects.
func (c Config) Validate() error {
	switch {
	case !filepath.IsAbs(c.Socket):
		return fmt.Errorf("check holder socket %q: not an absolute path", c.Socket)
	case len(c.Socket) > maxSocketPathBytes:
		return fmt.Errorf("check holder socket %q: longer than %d bytes", c.Socket, maxSocketPathBytes)
	case !filepath.IsAbs(c.Dir) || filepath.Clean(c.Dir) == "/":
		return fmt.Errorf("check holder directory %q: not an absolute path below /", c.Dir)
	case c.CallTimeout < 0 || c.EndGrace < 0 || c.TroubleGrace < 0:
		return errors.New("check holder timeouts: negative")
	case c.Group < 0:
		return fmt.Errorf("check holder socket group %d: negative", c.Group)
	}
	if _, err := fuse.ParseTransport(string(c.Transport)); err != nil {
		return fmt.Errorf("check holder: %w", err)
	}
	return nil
}
