package driver

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/journal"
)

// StandaloneConfig is what RunStandalone needs.
type StandaloneConfig struct {
	Site        string            // name of this site
	Root        string            // absolute directory of everything durable; made if need be
	JournalRoot string            // absolute directory of journals, on another disk; empty: they are in Root
	CSIEndpoint string            // unix:///PATH
	NodeID      string            // 1 to 63 bytes
	Admin       string            // absolute path of the admin socket
	Listen      string            // host:port of the gateway; empty: no other site may connect
	TLSDir      string            // ca.crt, tls.crt, tls.key; needed for Listen and Peers
	Peers       map[string]string // host:port by site name
	RateLimit   int64             // bytes per second sent to each peer; 0: unlimited
	Compress    bool              // what is sent to peers
	MetricsAddr string            // host:port; empty: no metrics are served
	IndexMemory int64             // bytes for the index of each volume; 0: the journal's default
	ScrubEvery  time.Duration     // in which each store is read once to find damage; 0: the journal's default
	Version     string            // of the program
	MaxVolumes  int64             // that can be attached at a time; 0: DefaultMaxVolumes
	// Transport is a wish for how devices' requests come; empty:
	// fuse.TransportDevice.
	Transport fuse.Transport
	// HolderArgs are the arguments that make the program at HolderExe run a
	// device holder for the socket and directory given behind them. An empty
	// HolderExe is this program.
	HolderExe  string
	HolderArgs func(socket, dir string) []string
	Log        *slog.Logger // nil: slog.Default()
}

// DefaultMaxVolumes bounds what one node attaches: each attached volume holds
// about 10 MiB of locked buffers.
const DefaultMaxVolumes = 128

// Validate reports the first field that cannot be used; it has no effects.
func (c *StandaloneConfig) Validate() error {
	switch {
	case certs.ValidateSite(c.Site) != nil:
		return fmt.Errorf("standalone configuration: %w", certs.ValidateSite(c.Site))
	case !filepath.IsAbs(c.Root):
		return fmt.Errorf("standalone configuration: root %q is not an absolute path", c.Root)
	case c.JournalRoot != "" && !filepath.IsAbs(c.JournalRoot):
		return fmt.Errorf("standalone configuration: journal root %q is not an absolute path", c.JournalRoot)
	case !strings.HasPrefix(c.CSIEndpoint, "unix:///"):
		return fmt.Errorf("standalone configuration: CSI endpoint %q is not unix:///PATH", c.CSIEndpoint)
	case c.NodeID == "" || len(c.NodeID) > 63:
		return errors.New("standalone configuration: the node id must have 1 to 63 bytes")
	case !filepath.IsAbs(c.Admin):
		return fmt.Errorf("standalone configuration: admin socket %q is not an absolute path", c.Admin)
	case c.MaxVolumes < 0:
		return fmt.Errorf("standalone configuration: %d volumes at most is negative", c.MaxVolumes)
	case c.IndexMemory != 0 && c.IndexMemory < journal.MinIndexMemory:
		return fmt.Errorf("standalone configuration: %d bytes for an index, want at least %d", c.IndexMemory, int64(journal.MinIndexMemory))
	case c.ScrubEvery != 0 && c.ScrubEvery < journal.MinScrubEvery:
		return fmt.Errorf("standalone configuration: a scrub every %s, want at least %s", c.ScrubEvery, journal.MinScrubEvery)
	case c.RateLimit < 0:
		return fmt.Errorf("standalone configuration: rate limit of %d bytes per second is negative", c.RateLimit)
	case (c.Listen != "" || len(c.Peers) > 0) && c.TLSDir == "":
		return errors.New("standalone configuration: other sites are spoken to with certificates only: TLSDir is missing")
	case c.HolderArgs == nil:
		return errors.New("standalone configuration: HolderArgs is missing")
	}
	if _, err := fuse.ParseTransport(string(c.Transport)); err != nil {
		return fmt.Errorf("standalone configuration: %w", err)
	}
	return nil
}

// Names below Root.
const (
	csiCatalogFile = "csi.db"
	nodeStateDir   = "node"
	devicesDir     = "devices"
	holderSocket   = "holder.sock"
	nbdSocket      = "nbd.sock"
)

func (c *StandaloneConfig) path(name string) string { return filepath.Join(c.Root, name) }
