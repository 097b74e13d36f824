package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// nodeConfig is what `lockstep node` was asked to run. Paths are absolute, and
// everything that can be checked without an effect has been.
type nodeConfig struct {
	// CSIEndpoint is unix:///PATH; DriverName is the CSI driver's.
	CSIEndpoint, DriverName string
	// NodeID is the Node's name.
	NodeID string
	// HolderSocket is what engines dial, and HolderGroup a group that may; 0: none.
	HolderSocket string
	HolderGroup  int
	// DevicesDir has the FUSE mounts, StateDir what survives a reboot.
	DevicesDir, StateDir string
	// MaxVolumes is how many may be attached; 0: as many as the holder keeps.
	MaxVolumes int64
	// StageWait is how long a volume's engine is waited for.
	StageWait time.Duration
	// Transport is a wish for how devices' requests come.
	Transport fuse.Transport
	// HealthAddr and MetricsAddr are host:port; empty: not served.
	HealthAddr, MetricsAddr string
}

func (a *app) newNodeCommand() *cobra.Command {
	config := nodeConfig{}
	var log logFlags
	command := &cobra.Command{
		Use:   "node --csi-endpoint unix:///PATH --holder-socket PATH --devices-dir DIR --state-dir DIR",
		Short: "Run a cluster's node plugin: mounts, and the holder of device descriptors",
		Long: `Runs the node role in a cluster: the CSI node service, and the holder that engines
lease the descriptors of their devices from. It needs root, /dev/fuse and loop
devices (see the check command), and a mount of the kubelet's directory that
shows its mounts to the host.

It can be replaced while volumes are in use. On SIGINT or SIGTERM it waits up to
20 s for engines of devices in use that have none at that moment, and leaves all
volumes as they are; engines bring their descriptors to the next one.`,
		Example: `  lockstep node --node-id worker-1 --csi-endpoint unix:///var/lib/kubelet/plugins/csi.lockstep.dev/csi.sock \
      --holder-socket /var/lib/kubelet/plugins/csi.lockstep.dev/holder/holder.sock \
      --devices-dir /var/lib/kubelet/plugins/csi.lockstep.dev/devices --state-dir /var/lib/kubelet/plugins/csi.lockstep.dev/state`,
		Args: wantArgs(),
		RunE: a.runs(func(command *cobra.Command, _ []string) error {
			if err := config.complete(); err != nil {
				return err
			}
			if err := log.install(a.stderr); err != nil {
				return err
			}
			if err := a.host.demand(); err != nil {
				return err
			}
			return a.roles.node(command.Context(), config)
		}),
	}
	flags := command.Flags()
	flags.StringVar(&config.CSIEndpoint, "csi-endpoint", "", "socket of the CSI server: unix:///PATH")
	flags.StringVar(&config.DriverName, "driver-name", "csi.lockstep.dev", "the CSI driver's name")
	flags.StringVar(&config.NodeID, "node-id", hostname(), "name of this node, as the cluster has it")
	flags.StringVar(&config.HolderSocket, "holder-socket", "", "Unix socket that engines lease their descriptors from; its folder is made")
	flags.IntVar(&config.HolderGroup, "holder-group", 0, "id of a group whose processes may use the holder's socket; 0: root only")
	flags.StringVar(&config.DevicesDir, "devices-dir", "", "directory for the file systems behind devices, which the host must see")
	flags.StringVar(&config.StateDir, "state-dir", "", "directory for what has to survive a reboot")
	flags.Int64Var(&config.MaxVolumes, "max-volumes", 0, fmt.Sprintf("most volumes that can be attached; 0: %d", holder.MaxVolumes))
	flags.DurationVar(&config.StageWait, "stage-wait", 90*time.Second, "how long staging a volume waits for its engine; the kubelet waits 2m")
	flags.StringVar(&config.HealthAddr, "health-addr", "", "host:port that serves /healthz and /readyz; empty: none")
	flags.StringVar(&config.MetricsAddr, "metrics-addr", "", "host:port that serves Prometheus metrics; empty: none")
	registerTransport(flags, &config.Transport)
	log.register(command)
	return command
}

// complete checks everything before any effect and completes the paths.
func (c *nodeConfig) complete() error {
	err := roleflags.Require(map[string]string{
		"--csi-endpoint": c.CSIEndpoint, "--driver-name": c.DriverName, "--node-id": c.NodeID,
		"--holder-socket": c.HolderSocket, "--devices-dir": c.DevicesDir, "--state-dir": c.StateDir,
	})
	if err != nil {
		return err
	}
	if err := csikeys.CheckNodeID(c.NodeID); err != nil {
		return misuse("--node-id: %v", err)
	}
	if c.Transport, err = fuse.ParseTransport(string(c.Transport)); err != nil {
		return misuse("--fuse-transport: %v", err)
	}
	if c.CSIEndpoint, err = csiEndpoint(c.CSIEndpoint); err != nil {
		return err
	}
	for flag, path := range map[string]*string{"--holder-socket": &c.HolderSocket, "--devices-dir": &c.DevicesDir, "--state-dir": &c.StateDir} {
		if *path, err = filepath.Abs(*path); err != nil {
			return fmt.Errorf("resolve %s: %w", flag, err)
		}
	}
	if err := validateSocketPath("--holder-socket", c.HolderSocket); err != nil {
		return err
	}
	for flag, address := range map[string]string{"--health-addr": c.HealthAddr, "--metrics-addr": c.MetricsAddr} {
		if address == "" {
			continue
		}
		if err := roleflags.ValidateAddress(address); err != nil {
			return misuse("%s %s: %v", flag, address, err)
		}
	}
	switch {
	case c.MaxVolumes < 0 || c.MaxVolumes > holder.MaxVolumes:
		return misuse("--max-volumes %d: want 0 to %d", c.MaxVolumes, holder.MaxVolumes)
	case c.HolderGroup < 0:
		return misuse("--holder-group %d is negative", c.HolderGroup)
	case c.StageWait <= 0:
		return misuse("--stage-wait %v: want more than 0", c.StageWait)
	}
	return nil
}

// demand fails with all that is missing for serving volumes, and what to do.
func (h host) demand() error {
	var missing []string
	for _, f := range h.check().Checks {
		if f.Required && !f.OK {
			missing = append(missing, fmt.Sprintf("%s (%s): %s", f.Name, f.Found, f.Remedy))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("this node cannot serve volumes: %s", strings.Join(missing, "; "))
}
