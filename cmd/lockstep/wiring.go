package main

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/lockstep-csi/lockstep/driver"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// roles are the parts of Lockstep that this binary runs. They are behind
// functions so that the command line is tested without starting any.
type roles struct {
	standalone    func(ctx context.Context, config standaloneConfig) error
	holder        func(ctx context.Context, socket, dir string) error
	dumpJournal   func(ctx context.Context, dir string, w io.Writer, options dumpOptions) error
	verifyJournal func(ctx context.Context, dir string) (verifyOutcome, error)
}

// errNotLinked is returned by a role that this build does not contain.
var errNotLinked = errors.New("this build of lockstep does not contain it")

func linkedRoles() roles {
	return roles{
		standalone: runStandalone,
		holder: func(ctx context.Context, socket, dir string) error {
			return holder.Run(ctx, holder.Config{Socket: socket, Dir: dir, Log: slog.Default()})
		},
		dumpJournal:   func(context.Context, string, io.Writer, dumpOptions) error { return errNotLinked },
		verifyJournal: func(context.Context, string) (verifyOutcome, error) { return verifyOutcome{}, errNotLinked },
	}
}

// runStandalone runs a site whose devices are held by this same program.
func runStandalone(ctx context.Context, c standaloneConfig) error {
	return driver.RunStandalone(ctx, driver.StandaloneConfig{
		Site: c.Site, Root: c.Root, CSIEndpoint: c.CSIEndpoint, NodeID: c.NodeID, Admin: c.Admin,
		Listen: c.Listen, TLSDir: c.TLSDir, Peers: c.Peers, MetricsAddr: c.MetricsAddr,
		Version: version, Log: slog.Default(),
		HolderArgs: func(socket, dir string) []string { return []string{"holder", "--socket", socket, "--dir", dir} },
	})
}
