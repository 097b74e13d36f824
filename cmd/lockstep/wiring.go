package main

import (
	"context"
	"io"
	"log/slog"

	"github.com/lockstep-csi/lockstep/driver"
	"github.com/lockstep-csi/lockstep/driver/controllerrole"
	"github.com/lockstep-csi/lockstep/driver/gatewaypod"
	"github.com/lockstep-csi/lockstep/driver/noderole"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// roles are the parts of Lockstep that this binary runs. They are behind
// functions so that the command line is tested without starting any.
type roles struct {
	standalone    func(ctx context.Context, config standaloneConfig) error
	gateway       func(ctx context.Context, config gatewayConfig) error
	node          func(ctx context.Context, config nodeConfig) error
	holder        func(ctx context.Context, socket, dir string) error
	controller    func(ctx context.Context, config controllerrole.Config) error
	dumpJournal   func(ctx context.Context, store journal.Config, w io.Writer, options journal.DumpOptions) error
	verifyJournal func(ctx context.Context, store journal.Config) (journal.Report, error)
}

func linkedRoles() roles {
	return roles{
		standalone: runStandalone,
		gateway:    runGateway,
		node:       runNode,
		holder: func(ctx context.Context, socket, dir string) error {
			return holder.Run(ctx, holder.Config{Socket: socket, Dir: dir, Log: slog.Default()})
		},
		controller:    controllerrole.Run,
		dumpJournal:   journal.Dump,
		verifyJournal: journal.Verify,
	}
}

// runStandalone runs a site whose devices are held by this same program.
func runStandalone(ctx context.Context, c standaloneConfig) error {
	return driver.RunStandalone(ctx, driver.StandaloneConfig{
		Site: c.Site, Root: c.Root, JournalRoot: c.JournalRoot, CSIEndpoint: c.CSIEndpoint, NodeID: c.NodeID, Admin: c.Admin,
		Listen: c.Listen, TLSDir: c.TLSDir, Peers: c.Peers, RateLimit: c.RateLimit, Compress: c.Compress, MetricsAddr: c.MetricsAddr, IndexMemory: c.IndexMemory, ScrubEvery: c.ScrubEvery, Transport: c.Transport,
		Version: version, Log: slog.Default(),
		HolderArgs: func(socket, dir string) []string { return []string{"holder", "--socket", socket, "--dir", dir} },
	})
}

// runGateway runs the gateway of a cluster.
func runGateway(ctx context.Context, c gatewayConfig) error {
	client, err := gatewaypod.Connect(c.Kubeconfig)
	if err != nil {
		return err
	}
	return gatewaypod.Run(ctx, gatewaypod.Config{
		Namespace: c.Namespace, Listen: c.Listen, PeerTLSDir: c.PeerTLSDir, TLSDir: c.TLSDir, Peers: c.Peers,
		Controller: c.Controller, EnginePort: int(c.EnginePort), HealthAddr: c.HealthAddr, MetricsAddr: c.MetricsAddr, MaxStreams: c.MaxStreams, RateLimit: c.RateLimit,
		Version: version, Client: client, Log: slog.Default(),
	})
}

// runNode runs the node plugin. Its topology has what the cluster says of the
// node, and volumes are attached as the cluster says, if this process may ask.
func runNode(ctx context.Context, c nodeConfig) error {
	topology, err := noderole.InCluster(c.NodeID)
	if err != nil {
		return err
	}
	attachment, err := noderole.AttachmentInCluster(c.DriverName, c.NodeID)
	if err != nil {
		return err
	}
	return noderole.Run(ctx, noderole.Config{
		CSIEndpoint: c.CSIEndpoint, DriverName: c.DriverName, NodeID: c.NodeID,
		HolderSocket: c.HolderSocket, HolderGroup: c.HolderGroup, DevicesDir: c.DevicesDir, StateDir: c.StateDir,
		MaxVolumes: c.MaxVolumes, StageWait: c.StageWait, Topology: topology, Attachment: attachment, Transport: c.Transport,
		HealthAddr: c.HealthAddr, MetricsAddr: c.MetricsAddr, Version: version, Log: slog.Default(),
	})
}
