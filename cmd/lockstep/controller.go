package main

import (
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/controller/orphan"
	"github.com/lockstep-csi/lockstep/driver/controllerrole"
	"github.com/lockstep-csi/lockstep/driver/csiserver"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/operator"
	"github.com/lockstep-csi/lockstep/internal/certs"
)

// Requests to the API server: the controller is one process for the cluster,
// and its work comes in bursts.
const (
	clusterQPS   = 100
	clusterBurst = 200
)

// newControllerCommand runs the controller role of a cluster.
func (a *app) newControllerCommand() *cobra.Command {
	config, kubeconfig := controllerrole.Config{Version: version}, ""
	var probes roleflags.Probes
	var log logFlags
	command := &cobra.Command{
		Use:   "controller --site NAME --csi-endpoint unix:///PATH --engine-template FILE",
		Short: "Run a cluster's controller",
		Long: `Runs the controller role in a cluster: the CSI controller services for the sidecars in
its pod, backing claims and engine pods in its namespace, checkpoints, groups, and the
admin API that kubectl lockstep speaks to. It keeps what it knows in ConfigMaps.

Engines go on without it. A second controller takes the catalog over, and the first
one ends.`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			if err := completeController(&config); err != nil {
				return err
			}
			if err := probes.Validate(); err != nil {
				return err
			}
			if err := log.install(a.stderr); err != nil {
				return err
			}
			var err error
			if config.Cluster, err = clusterConfig(kubeconfig); err != nil {
				return err
			}
			config.MetricsAddr, config.HealthAddr = probes.MetricsAddr, probes.HealthAddr
			return a.roles.controller(command.Context(), config)
		}),
	}
	f := command.Flags()
	f.StringVar(&config.CSIEndpoint, "csi-endpoint", "", "socket that the sidecars call: unix:///PATH")
	f.StringVar(&config.DriverName, "driver-name", csiserver.DriverName, "the CSI driver's name")
	f.StringVar(&config.Site, "site", "", "name of this site: lower-case letters, digits and hyphens")
	f.StringVar(&config.Namespace, "namespace", a.getenv(namespaceVariable), "the driver's namespace; default from $"+namespaceVariable)
	f.StringVar(&config.Listen, "listen", ":7444", "host:port of announcements that gateways pass on")
	f.StringVar(&config.AdminListen, "admin-listen", "127.0.0.1:7445", "host:port of the admin API; loopback, for port forwarding")
	f.StringVar(&config.EngineTemplate, "engine-template", "", "file with the PodTemplate of engine pods")
	f.DurationVar(&config.EngineLinger, "engine-linger", fleet.DefaultLinger, "how long an engine that nothing wants any more is kept")
	f.DurationVar(&config.OrphanGrace, "orphan-grace", orphan.DefaultGrace, "how long what belongs to no volume and holds no data is left; 0: for ever")
	f.StringVar(&config.TLSDir, "tls-dir", "/run/lockstep/tls", "where the controller writes its own certificate")
	f.StringVar(&config.PeerTLSDir, "peer-tls-dir", "", "ca.crt, tls.crt and tls.key between sites, see the certs command")
	f.StringVar(&config.PeerTLSSecret, "peer-tls-secret", operator.DefaultPeerSecret, "name of the Secret that is mounted there")
	f.StringVar(&kubeconfig, "kubeconfig", "", "file that leads to the cluster; empty: the one that this runs in")
	probes.Register(command.Flags())
	log.register(command)
	return command
}

// completeController checks everything before any effect.
func completeController(c *controllerrole.Config) error {
	err := roleflags.Require(map[string]string{"--site": c.Site, "--csi-endpoint": c.CSIEndpoint, "--namespace": c.Namespace, "--engine-template": c.EngineTemplate,
		"--listen": c.Listen, "--admin-listen": c.AdminListen, "--tls-dir": c.TLSDir})
	if err != nil {
		return err
	}
	if err := certs.ValidateSite(c.Site); err != nil {
		return misuse("--site: %v", err)
	}
	if c.CSIEndpoint, err = csiEndpoint(c.CSIEndpoint); err != nil {
		return err
	}
	if c.EngineLinger <= 0 {
		return misuse("--engine-linger %v: want a time above zero", c.EngineLinger)
	}
	if c.OrphanGrace < 0 {
		return misuse("--orphan-grace %v: want a time, or 0", c.OrphanGrace)
	}
	if c.TLSDir, err = filepath.Abs(c.TLSDir); err != nil {
		return err
	}
	return roleflags.ValidateAddresses(map[string]string{"--listen": c.Listen, "--admin-listen": c.AdminListen})
}

// clusterConfig leads to the cluster that this process runs in, or to that of a
// kubeconfig file.
func clusterConfig(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = clusterQPS, clusterBurst
	return config, nil
}
