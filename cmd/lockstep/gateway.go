package main

import (
	"net"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/internal/bytesize"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

const (
	// namespaceVariable is set by the pod's own field reference.
	namespaceVariable = "POD_NAMESPACE"
	// defaultEnginePort is where engines serve the gateway.
	defaultEnginePort = 7443
)

// gatewayConfig is what `lockstep gateway` was asked to run; everything that
// can be checked without an effect has been.
type gatewayConfig struct {
	// Namespace is the driver's, where the engine pods are.
	Namespace string
	// Kubeconfig is a file; empty: the cluster that this process runs in.
	Kubeconfig string
	// Listen is host:port that other sites connect to.
	Listen string
	// PeerTLSDir is the certificate towards other sites, TLSDir the one of role
	// gateway inside the cluster.
	PeerTLSDir, TLSDir string
	// Peers may connect; none: every site that the authority signed.
	Peers []string
	// Controller is host:port.
	Controller string
	// EnginePort is the port of every engine.
	EnginePort uint16
	// HealthAddr and MetricsAddr are host:port; empty: not served.
	HealthAddr, MetricsAddr string
	// MaxStreams is how many streams are carried; 0: a default.
	MaxStreams int
	// RateLimit is in bytes per second; 0: unlimited.
	RateLimit int64
}

func (a *app) newGatewayCommand() *cobra.Command {
	config := gatewayConfig{}
	var log logFlags
	var limit string
	command := &cobra.Command{
		Use:   "gateway --controller HOST:PORT --peer-tls-dir DIR --tls-dir DIR",
		Short: "Run a cluster's entrance for replication from other sites",
		Long: `Runs the gateway role in a cluster: other sites connect to it over mutual TLS. It
passes announcements on to the controller, and each volume's stream on to the
volume's engine, whose pod it finds in the driver's namespace. It keeps no state;
any number of gateways may run. The site is the one that both certificates name.

On SIGINT or SIGTERM it becomes unready and ends its streams; their senders
connect again, to another gateway or to the next.`,
		Example: `  lockstep gateway --controller lockstep-controller:7444 \
      --peer-tls-dir /etc/lockstep/peer --tls-dir /etc/lockstep/tls`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			if err := config.complete(limit); err != nil {
				return err
			}
			if err := log.install(a.stderr); err != nil {
				return err
			}
			return a.roles.gateway(command.Context(), config)
		}),
	}
	flags := command.Flags()
	flags.StringVar(&config.Namespace, "namespace", a.getenv(namespaceVariable), "the driver's namespace; default from $"+namespaceVariable)
	flags.StringVar(&config.Kubeconfig, "kubeconfig", "", "file that leads to the cluster; empty: the one that this runs in")
	flags.StringVar(&config.Listen, "listen", ":7443", "host:port that other sites connect to")
	flags.StringVar(&config.PeerTLSDir, "peer-tls-dir", "", "ca.crt, tls.crt and tls.key between sites, see the certs command")
	flags.StringVar(&config.TLSDir, "tls-dir", "", "ca.crt, tls.crt and tls.key of the role gateway, which the controller issues")
	flags.StringArrayVar(&config.Peers, "peer", nil, "name of a site that may connect, repeatable; none: every one that the authority signed")
	flags.StringVar(&config.Controller, "controller", "", "host:port of the controller")
	flags.Uint16Var(&config.EnginePort, "engine-port", defaultEnginePort, "port of every engine")
	flags.StringVar(&config.HealthAddr, "health-addr", "", "host:port that serves /healthz and /readyz; empty: none")
	flags.StringVar(&config.MetricsAddr, "metrics-addr", "", "host:port that serves Prometheus metrics; empty: none")
	flags.IntVar(&config.MaxStreams, "max-streams", 0, "streams, one for each volume, that are carried at a time; 0: 1024")
	flags.StringVar(&limit, "rate-limit", "0", "bytes per second that all streams together may bring, such as 20Mi; 0: unlimited")
	log.register(command)
	return command
}

// complete checks everything before any effect.
func (c *gatewayConfig) complete(limit string) error {
	err := roleflags.Require(map[string]string{"--namespace": c.Namespace, "--listen": c.Listen, "--peer-tls-dir": c.PeerTLSDir,
		"--tls-dir": c.TLSDir, "--controller": c.Controller})
	if err != nil {
		return err
	}
	for _, peer := range c.Peers {
		if err := certs.ValidateSite(peer); err != nil {
			return misuse("--peer: %v", err)
		}
	}
	for flag, address := range map[string]string{"--listen": c.Listen, "--controller": c.Controller, "--health-addr": c.HealthAddr, "--metrics-addr": c.MetricsAddr} {
		if address == "" {
			continue
		}
		if err := roleflags.ValidateAddress(address); err != nil {
			return misuse("%s %s: %v", flag, address, err)
		}
	}
	if host, _, _ := net.SplitHostPort(c.Controller); host == "" {
		return misuse("--controller %s: the host is missing", c.Controller)
	}
	if c.HealthAddr != "" && c.HealthAddr == c.MetricsAddr {
		return misuse("--health-addr and --metrics-addr must differ")
	}
	if c.EnginePort == 0 {
		return misuse("--engine-port must not be 0")
	}
	if c.MaxStreams < 0 {
		return misuse("--max-streams must not be negative")
	}
	for _, dir := range []*string{&c.PeerTLSDir, &c.TLSDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	c.RateLimit, err = parseRate("--rate-limit", limit)
	return err
}

// parseRate reads bytes per second, 0 for no limit.
func parseRate(flag, text string) (int64, error) {
	n, err := bytesize.Parse(text)
	if err != nil {
		return 0, misuse("%s %q: %v (a second, 0 for no limit)", flag, text, err)
	}
	return n, nil
}
