package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/journal"
)

// roleFlags are what every role of a cluster takes.
type roleFlags struct {
	log         logFlags
	metricsAddr string
	healthAddr  string
}

func (f *roleFlags) register(command *cobra.Command) {
	command.Flags().StringVar(&f.metricsAddr, "metrics-addr", "", "host:port that serves Prometheus metrics; empty: none")
	command.Flags().StringVar(&f.healthAddr, "health-addr", "", "host:port that serves /healthz and /readyz; empty: none")
	f.log.register(command)
}

// validate checks the addresses.
func (f *roleFlags) validate() error {
	return validateAddresses(map[string]string{"--metrics-addr": f.metricsAddr, "--health-addr": f.healthAddr})
}

// validateAddresses checks those that are not empty.
func validateAddresses(addresses map[string]string) error {
	for _, flag := range sortedKeys(addresses) {
		if addresses[flag] == "" {
			continue
		}
		if err := validateAddress(addresses[flag]); err != nil {
			return misuse("%s %s: %v", flag, addresses[flag], err)
		}
	}
	return nil
}

// newEngineCommand runs the engine role of a cluster.
func (a *app) newEngineCommand() *cobra.Command {
	config, flags, volume := enginepod.ProcessConfig{Version: version}, roleFlags{}, ""
	var index string
	command := &cobra.Command{
		Use:   "engine --volume ID --store-dir DIR --holder-socket PATH --tls-dir DIR",
		Short: "Run one volume's engine in a cluster",
		Long: `Runs the engine role in a cluster: one volume's store, on the backing volume that is
mounted at --store-dir. The controller starts it in a pod and orders it to serve its
device on the node, to send its records to a peer, or to take a peer's.

On SIGINT or SIGTERM everything is made durable; the device waits for the next engine.`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			if err := completeEngine(&config, volume); err != nil {
				return err
			}
			var err error
			if config.IndexMemory, err = parseIndexMemory(index); err != nil {
				return err
			}
			if err := flags.validate(); err != nil {
				return err
			}
			if err := flags.log.install(a.stderr); err != nil {
				return err
			}
			config.MetricsAddr, config.HealthAddr = flags.metricsAddr, flags.healthAddr
			return a.roles.engine(command.Context(), config)
		}),
	}
	f := command.Flags()
	registerIndexMemory(f, &index)
	f.StringVar(&volume, "volume", "", "the volume's 32 hexadecimal digits")
	f.StringVar(&config.StoreDir, "store-dir", "", "where the backing volume is mounted")
	f.StringVar(&config.Listen, "listen", ":7443", "host:port that serves controller and gateway")
	f.StringVar(&config.HolderSocket, "holder-socket", "", "socket of the node plugin's holder")
	f.StringVar(&config.TLSDir, "tls-dir", "", "ca.crt, tls.crt and tls.key of the role, which the controller issues")
	f.StringVar(&config.PeerTLSDir, "peer-tls-dir", "", "ca.crt, tls.crt and tls.key between sites, see the certs command")
	f.StringVar(&config.Lease, "lease", "", "Lease that this engine must hold to write; empty: none")
	f.StringVar(&config.Namespace, "namespace", "", "of the Lease; empty: this pod's")
	f.StringVar(&config.LeaseID, "lease-id", enginepod.PodID(), "this pod in the lease, the same after a restart in it")
	f.StringVar(&config.NBDListen, "nbd-listen", "127.0.0.1:10809", "host:port that shows volume and views to tools; empty: none")
	flags.register(command)
	return command
}

// completeEngine checks everything before any effect.
func completeEngine(c *enginepod.ProcessConfig, volume string) error {
	err := requireFlags(map[string]string{"--volume": volume, "--store-dir": c.StoreDir, "--holder-socket": c.HolderSocket, "--tls-dir": c.TLSDir, "--listen": c.Listen})
	if err != nil {
		return err
	}
	if c.Volume, err = journal.ParseVolumeID(volume); err != nil {
		return misuse("--volume: %v", err)
	}
	for _, dir := range []*string{&c.StoreDir, &c.HolderSocket, &c.TLSDir, &c.PeerTLSDir} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	return validateAddresses(map[string]string{"--listen": c.Listen, "--nbd-listen": c.NBDListen})
}
