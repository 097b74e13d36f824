package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// maxNodeIDBytes is what a node id may have to be a topology value as well.
const maxNodeIDBytes = 63

// standaloneConfig is what `lockstep standalone` was asked to run. Paths are
// absolute, and everything that can be checked without an effect has been.
type standaloneConfig struct {
	// Site is this site's name.
	Site string
	// Root is the directory that holds the stores.
	Root string
	// JournalRoot is the directory that holds the journals of stores made from
	// now on; empty: they are in Root.
	JournalRoot string
	// CSIEndpoint is unix:///PATH.
	CSIEndpoint string
	// NodeID is this node's name towards CSI.
	NodeID string
	// Admin is the path of the admin socket.
	Admin string
	// Listen is the gateway's host:port; empty: no other site may connect.
	Listen string
	// TLSDir holds ca.crt, tls.crt and tls.key; empty without Listen and Peers.
	TLSDir string
	// Peers maps the names of other sites to host:port.
	Peers map[string]string
	// RateLimit bounds what is sent to each peer, in bytes per second; 0:
	// unlimited.
	RateLimit int64
	// Compress compresses what is sent.
	Compress bool
	// MetricsAddr is host:port of the metrics; empty: none are served.
	MetricsAddr string
	// IndexMemory bounds the memory of each volume's index, in bytes.
	IndexMemory int64
	// ScrubEvery is the time in which each store is read once to find damage.
	ScrubEvery time.Duration
	// Transport is a wish for how devices' requests come.
	Transport fuse.Transport
}

// standaloneFlags are the raw flags of `lockstep standalone`.
type standaloneFlags struct {
	config standaloneConfig
	peers  []string
	limit  string
	index  roleflags.IndexMemory
	scrub  roleflags.ScrubEvery
	log    logFlags
}

func (a *app) newStandaloneCommand() *cobra.Command {
	f := &standaloneFlags{}
	command := &cobra.Command{
		Use:   "standalone --site NAME --root DIR --csi-endpoint unix:///PATH",
		Short: "Run one whole site in this process, over a directory",
		Long: `Runs controller, node, engines and gateway of one site in one process, without
Kubernetes. It stops in order on SIGINT or SIGTERM: volumes are flushed first.`,
		Example: `  lockstep certs --out /etc/lockstep/tls --site a=10.0.0.1 --site b=10.0.0.2
  lockstep standalone --site a --root /var/lib/lockstep --csi-endpoint unix:///run/lockstep/csi.sock \
      --listen 10.0.0.1:7443 --tls-dir /etc/lockstep/tls/a --peer b=10.0.0.2:7443`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			config, err := f.validate()
			if err != nil {
				return err
			}
			if err := f.log.install(a.stderr); err != nil {
				return err
			}
			return a.roles.standalone(command.Context(), config)
		}),
	}
	flags := command.Flags()
	flags.StringVar(&f.config.Site, "site", "", "name of this site: lower-case letters, digits and hyphens")
	flags.StringVar(&f.config.Root, "root", "", "directory that holds the stores; made when missing")
	flags.StringVar(&f.config.JournalRoot, "journal-root", "", "directory on another, faster disk for the journals of volumes made from now on; it must be there; empty: in --root")
	flags.StringVar(&f.config.CSIEndpoint, "csi-endpoint", "", "socket of the CSI server: unix:///PATH")
	flags.StringVar(&f.config.NodeID, "node-id", hostname(), "name of this node towards CSI")
	flags.StringVar(&f.config.Listen, "listen", "", "host:port that other sites connect to; needs --tls-dir")
	flags.StringVar(&f.config.TLSDir, "tls-dir", "", "directory with ca.crt, tls.crt and tls.key, see the certs command")
	flags.StringArrayVar(&f.peers, "peer", nil, "another site as name=host:port, repeatable; needs --tls-dir")
	flags.StringVar(&f.limit, "rate-limit", "0", "bytes per second that may be sent to each peer, such as 20Mi; 0: unlimited")
	flags.BoolVar(&f.config.Compress, "compress", true, "compress what is sent to peers")
	f.index.Register(flags)
	f.scrub.Register(flags)
	flags.StringVar(&f.config.MetricsAddr, "metrics-addr", "", "host:port that serves Prometheus metrics; empty: none")
	registerTransport(flags, &f.config.Transport)
	registerAdminSocket(a, command, &f.config.Admin)
	f.log.register(command)
	return command
}

// registerTransport adds the flag for the transport of devices.
func registerTransport(flags *pflag.FlagSet, to *fuse.Transport) {
	flags.StringVar((*string)(to), "fuse-transport", string(fuse.TransportDevice),
		"how requests of new devices come from the kernel: dev-fuse, or io-uring for speed where the kernel has it and its switch is on; "+
			"a device over io-uring fails when its engine ends, instead of waiting for the next one")
}

// hostname is empty when the host has none; --node-id is then demanded.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// validate checks everything before any effect and completes the paths.
func (f *standaloneFlags) validate() (standaloneConfig, error) {
	config := f.config
	if err := roleflags.Require(map[string]string{"--site": config.Site, "--root": config.Root, "--csi-endpoint": config.CSIEndpoint, "--node-id": config.NodeID}); err != nil {
		return config, err
	}
	if err := certs.ValidateSite(config.Site); err != nil {
		return config, misuse("--site: %v", err)
	}
	if len(config.NodeID) > maxNodeIDBytes {
		return config, misuse("--node-id is %d bytes long, %d are allowed", len(config.NodeID), maxNodeIDBytes)
	}
	var err error
	if config.Transport, err = fuse.ParseTransport(string(config.Transport)); err != nil {
		return config, misuse("--fuse-transport: %v", err)
	}
	if config.Root, err = filepath.Abs(config.Root); err != nil {
		return config, fmt.Errorf("resolve --root: %w", err)
	}
	if config.JournalRoot != "" {
		if config.JournalRoot, err = filepath.Abs(config.JournalRoot); err != nil {
			return config, fmt.Errorf("resolve --journal-root: %w", err)
		}
		if config.JournalRoot == config.Root {
			return config, misuse("--journal-root is --root: leave it out")
		}
	}
	if config.CSIEndpoint, err = csiEndpoint(config.CSIEndpoint); err != nil {
		return config, err
	}
	if err := validateSocketPath("--admin", config.Admin); err != nil {
		return config, err
	}
	if config.Admin, err = filepath.Abs(config.Admin); err != nil {
		return config, fmt.Errorf("resolve --admin: %w", err)
	}
	for flag, address := range map[string]string{"--listen": config.Listen, "--metrics-addr": config.MetricsAddr} {
		if address == "" {
			continue
		}
		if err := roleflags.ValidateAddress(address); err != nil {
			return config, misuse("%s %s: %v", flag, address, err)
		}
	}
	if config.Peers, err = parsePeers(config.Site, f.peers); err != nil {
		return config, err
	}
	if config.RateLimit, err = parseRate("--rate-limit", f.limit); err != nil {
		return config, err
	}
	if config.IndexMemory, err = f.index.Bytes(); err != nil {
		return config, err
	}
	if config.ScrubEvery, err = f.scrub.Period(); err != nil {
		return config, err
	}
	return config, config.validateTLS()
}

// csiEndpoint accepts unix:///PATH, unix:PATH and an absolute path, the forms
// that CSI sidecars use, and returns the first.
func csiEndpoint(text string) (string, error) {
	path := text
	for _, scheme := range []string{"unix://", "unix:"} {
		if rest, found := strings.CutPrefix(text, scheme); found {
			path = rest
			break
		}
	}
	if !filepath.IsAbs(path) {
		return "", misuse("--csi-endpoint %q: want unix:///PATH with an absolute path", text)
	}
	if err := validateSocketPath("--csi-endpoint", path); err != nil {
		return "", err
	}
	return "unix://" + filepath.Clean(path), nil
}

func parsePeers(self string, texts []string) (map[string]string, error) {
	peers := make(map[string]string, len(texts))
	for _, text := range texts {
		name, address, found := strings.Cut(text, "=")
		if !found {
			return nil, misuse("--peer %q: want name=host:port", text)
		}
		if err := certs.ValidateSite(name); err != nil {
			return nil, misuse("--peer %q: %v", text, err)
		}
		if name == self {
			return nil, misuse("--peer %q names this site itself", text)
		}
		if _, twice := peers[name]; twice {
			return nil, misuse("--peer %s is given twice", name)
		}
		host, _, err := net.SplitHostPort(address)
		if err == nil && host == "" {
			err = fmt.Errorf("the host is missing")
		}
		if err == nil {
			err = roleflags.ValidateAddress(address)
		}
		if err != nil {
			return nil, misuse("--peer %q: %v", text, err)
		}
		peers[name] = address
	}
	return peers, nil
}

// validateTLS demands certificates where other sites are spoken to, and that
// they are this site's: peers would refuse it only much later.
func (c *standaloneConfig) validateTLS() error {
	if c.TLSDir == "" {
		if c.Listen != "" || len(c.Peers) > 0 {
			return misuse("--listen and --peer need --tls-dir: sites speak mutual TLS only, see `lockstep certs --help`")
		}
		return nil
	}
	dir, err := filepath.Abs(c.TLSDir)
	if err != nil {
		return fmt.Errorf("resolve --tls-dir: %w", err)
	}
	c.TLSDir = dir
	owner, err := certs.LocalSite(dir)
	if err != nil {
		return err
	}
	if owner != c.Site {
		return fmt.Errorf("--tls-dir %s holds the certificate of site %s, and this is site %s", dir, owner, c.Site)
	}
	return nil
}
