package noderole

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// DefaultStageWait is how long NodeStageVolume waits for an engine: less than
// the two minutes that the kubelet waits for an answer, so that its event says
// what is missing.
const DefaultStageWait = 90 * time.Second

// Config is what Run needs.
type Config struct {
	CSIEndpoint string // unix:///path
	DriverName  string // empty: csiserver.DriverName
	NodeID      string // the Node's name
	// HolderSocket is what engines dial; its folder is made. Engines' pods mount
	// the folder, so nothing else should be in it.
	HolderSocket string
	// HolderGroup is a group id whose processes may connect beside root; 0: none.
	HolderGroup int
	// DevicesDir is for the file systems behind devices. Mounts in it must reach
	// the host (mountPropagation: Bidirectional).
	DevicesDir string
	// StateDir is for what survives a reboot: which volumes are being formatted.
	StateDir string
	// MaxVolumes is how many volumes may be attached at once; 0: as many as the
	// holder keeps, holder.MaxVolumes, which is also the most.
	MaxVolumes int64
	// StageWait is how long NodeStageVolume waits for the volume's engine; 0:
	// DefaultStageWait.
	StageWait time.Duration
	// Transport is how requests of new devices are to come; empty:
	// fuse.TransportDevice. A wish, see holder.Config.
	Transport fuse.Transport
	// Topology returns further segments of the node; nil: none.
	Topology func(context.Context) (map[string]string, error)
	// Attachment returns the identity of what attaches a volume to this node; empty
	// if nothing does, on the word of whoever decides that. An error: it is not
	// known. nil: nobody can be asked, and no device is taken away.
	Attachment func(ctx context.Context, volume string) (string, error)
	// StaleAfter is how long a device has to be without an engine before it is asked
	// whether its volume is still attached to this node, and StaleAgain the time
	// between the two answers after which it is taken away; 0: DefaultStaleAfter and
	// DefaultStaleAgain.
	StaleAfter, StaleAgain time.Duration
	// HealthAddr and MetricsAddr are host:port; empty: not served.
	HealthAddr, MetricsAddr string
	Version                 string       // of the program
	Log                     *slog.Logger // nil: slog.Default()
}

// Validate reports the first field that cannot be used. It has no effects.
func (c *Config) Validate() error {
	for name, path := range map[string]string{"holder socket": c.HolderSocket, "devices directory": c.DevicesDir, "state directory": c.StateDir} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("node role: %s %q is not an absolute path", name, path)
		}
	}
	switch {
	case c.CSIEndpoint == "":
		return errors.New("node role: the CSI endpoint is missing")
	case c.MaxVolumes < 0 || c.MaxVolumes > holder.MaxVolumes:
		return fmt.Errorf("node role: %d volumes at most: want 0 to %d", c.MaxVolumes, holder.MaxVolumes)
	case c.HolderGroup < 0:
		return fmt.Errorf("node role: holder group %d is negative", c.HolderGroup)
	case c.StageWait < 0:
		return errors.New("node role: the wait for engines is negative")
	case c.StaleAfter < 0 || c.StaleAgain < 0:
		return errors.New("node role: a time without an engine is negative")
	}
	if err := csikeys.CheckNodeID(c.NodeID); err != nil {
		return fmt.Errorf("node role: %w", err)
	}
	if _, err := fuse.ParseTransport(string(c.Transport)); err != nil {
		return fmt.Errorf("node role: %w", err)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.MaxVolumes == 0 {
		c.MaxVolumes = holder.MaxVolumes
	}
	if c.StageWait == 0 {
		c.StageWait = DefaultStageWait
	}
	if c.StaleAfter == 0 {
		c.StaleAfter = DefaultStaleAfter
	}
	if c.StaleAgain == 0 {
		c.StaleAgain = DefaultStaleAgain
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}
