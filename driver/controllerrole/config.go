package controllerrole

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	"github.com/lockstep-csi/lockstep/driver/csiserver"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// Config is what the controller role needs; see docs/kubernetes.md, "Flags".
type Config struct {
	CSIEndpoint string // unix:///PATH
	DriverName  string // empty: csiserver.DriverName
	Site        string
	Namespace   string // of the driver
	Listen      string // host:port of announcements, mTLS
	AdminListen string // host:port of the admin API; loopback
	// EngineTemplate is a file with the PodTemplate of engine pods.
	EngineTemplate string
	EngineLinger   time.Duration // 0: the fleet's default
	OrphanGrace    time.Duration // how long what it sweeps has to have been an orphan; 0: nothing is swept
	TLSDir         string        // where the controller writes its own certificate
	PeerTLSDir     string        // certificate for other sites; empty, or an empty directory: no peer yet
	PeerTLSSecret  string        // the Secret that is mounted there; empty: operator.DefaultPeerSecret
	MetricsAddr    string
	HealthAddr     string
	Version        string
	Cluster        *rest.Config
	Log            *slog.Logger // nil: slog.Default()
}

// enginePort is where engines serve their control API (the chart's template).
const enginePort = 7443

// Validate reports the first field that cannot be used, and fills in defaults.
func (c *Config) Validate() error {
	switch {
	case certs.ValidateSite(c.Site) != nil:
		return fmt.Errorf("controller configuration: %w", certs.ValidateSite(c.Site))
	case c.CSIEndpoint == "" || c.Namespace == "" || c.Listen == "" || c.AdminListen == "" || c.EngineTemplate == "":
		return errors.New("controller configuration: CSIEndpoint, Namespace, Listen, AdminListen and EngineTemplate are required")
	case !filepath.IsAbs(c.TLSDir):
		return fmt.Errorf("controller configuration: TLS directory %q is not an absolute path", c.TLSDir)
	case c.OrphanGrace < 0:
		return errors.New("controller configuration: the grace of orphans is negative")
	case c.Cluster == nil:
		return errors.New("controller configuration: Cluster is missing")
	}
	if c.DriverName == "" {
		c.DriverName = csiserver.DriverName
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}
