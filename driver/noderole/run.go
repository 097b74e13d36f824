package noderole

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/driver/csiserver"
	"github.com/lockstep-csi/lockstep/driver/probes"
	"github.com/lockstep-csi/lockstep/node"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// Run serves until ctx ends or a part of it fails. At the end the CSI server
// stops first. The holder waits for engines of devices in use that have none at
// that moment (holder.Config.EndGrace), and leaves all volumes as they are.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	if err := makeDirs(cfg); err != nil {
		return err
	}
	var service *node.Server
	kept, err := holder.New(holder.Config{
		Socket: cfg.HolderSocket, Dir: cfg.DevicesDir, Group: cfg.HolderGroup, IdleTimeout: -1, Keep: true, Transport: cfg.Transport,
		Unused: func(ctx context.Context, volume, device string, do func() error) error {
			return holderErrors(service.WhileUnused(ctx, volume, device, do))
		},
		Turn: func(ctx context.Context, volume string, do func() error) error {
			return service.InTurn(ctx, volume, do)
		},
		Log: cfg.Log.With("component", "holder"),
	})
	if err != nil {
		return err
	}
	service, err = node.New(node.Config{
		NodeID: cfg.NodeID, MaxVolumesPerNode: cfg.MaxVolumes, Devices: devices{kept, cfg.StageWait},
		StateDir: cfg.StateDir, Topology: cfg.Topology, DevicesByCaller: true, Log: cfg.Log,
	})
	if err != nil {
		return err
	}
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return kept.Run(ctx) })
	tasks.Go(func() error {
		return csiserver.Run(ctx, csiserver.Config{
			Endpoint: cfg.CSIEndpoint, DriverName: cfg.DriverName, Version: cfg.Version, Log: cfg.Log,
			Node: service, Ready: func(context.Context) error { return kept.Ready() },
		})
	})
	tasks.Go(func() error {
		return probes.Run(ctx, probes.Config{
			HealthAddr: cfg.HealthAddr, MetricsAddr: cfg.MetricsAddr, Ready: kept.Ready,
			Metrics: []prometheus.Collector{collector{kept}},
		})
	})
	if cfg.Attachment != nil {
		stale := &revoker{kept: kept, attachment: cfg.Attachment, after: cfg.StaleAfter, again: cfg.StaleAgain, now: time.Now, log: cfg.Log.With("component", "stale")}
		tasks.Go(func() error { return stale.run(ctx) })
	}
	cfg.Log.Info("node is serving", "node", cfg.NodeID, "csi", cfg.CSIEndpoint, "holder", cfg.HolderSocket)
	return tasks.Wait()
}

// makeDirs makes what the role needs. The folder of the holder's socket is the
// one that engines see.
func makeDirs(cfg Config) error {
	socketDir := filepath.Dir(cfg.HolderSocket)
	for _, dir := range []string{cfg.DevicesDir, cfg.StateDir, socketDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if cfg.HolderGroup == 0 {
		return nil
	}
	if err := os.Chown(socketDir, -1, cfg.HolderGroup); err != nil {
		return fmt.Errorf("give folder of the holder's socket to group %d: %w", cfg.HolderGroup, err)
	}
	if err := os.Chmod(socketDir, 0o710); err != nil {
		return fmt.Errorf("give folder of the holder's socket to group %d: %w", cfg.HolderGroup, err)
	}
	return nil
}
