package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/driver/enginepod"
	"github.com/lockstep-csi/lockstep/internal/endsignal"
	"github.com/lockstep-csi/lockstep/journal"
)

// version is set by the build: -ldflags "-X main.version=v0.1.0".
var version = "devel"

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(execute(endsignal.Context(), os.Args[1:], os.Stdout, os.Stderr, enginepod.Run))
}

// execute executes one command line with run in place of the engine, and
// returns the exit status.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer, run func(context.Context, enginepod.ProcessConfig) error) int {
	started := false
	command := newCommand(stderr, func(ctx context.Context, config enginepod.ProcessConfig) error {
		started = true
		return run(ctx, config)
	})
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)
	err := command.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(stderr, "lockstep-engine: %v\n", err) // nobody is left to tell
	if started {
		return exitFailed
	}
	_, _ = fmt.Fprintln(stderr, "see `lockstep-engine --help`")
	return exitUsage
}

// newCommand is the command line.
func newCommand(stderr io.Writer, run func(context.Context, enginepod.ProcessConfig) error) *cobra.Command {
	config, probes, log, volume := enginepod.ProcessConfig{Version: version}, roleflags.Probes{}, roleflags.Log{}, ""
	var index roleflags.IndexMemory
	var scrub roleflags.ScrubEvery
	command := &cobra.Command{
		Use:     "lockstep-engine --volume ID --store-dir DIR --holder-socket PATH --tls-dir DIR",
		Short:   "Run one volume's engine in a cluster",
		Version: version,
		Long: `Runs the engine role in a cluster: one volume's store, on the backing volume that is
mounted at --store-dir. The controller starts it in a pod and orders it to serve its
device on the node, to send its records to a peer, or to take a peer's.

Of several engines on one backing volume one serves, and one waits to be the next. On
SIGINT or SIGTERM everything is made durable; the device waits for the next engine.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := complete(&config, volume); err != nil {
				return err
			}
			var err error
			if config.IndexMemory, err = index.Bytes(); err != nil {
				return err
			}
			if config.ScrubEvery, err = scrub.Period(); err != nil {
				return err
			}
			if err := errors.Join(probes.Validate(), log.Install(stderr)); err != nil {
				return err
			}
			config.MetricsAddr, config.HealthAddr = probes.MetricsAddr, probes.HealthAddr
			return run(command.Context(), config)
		},
	}
	f := command.Flags()
	index.Register(f)
	scrub.Register(f)
	f.StringVar(&volume, "volume", "", "the volume's 32 hexadecimal digits")
	f.StringVar(&config.StoreDir, "store-dir", "", "where the backing volume is mounted")
	f.StringVar(&config.JournalDir, "journal-dir", "", "where the journal's own backing volume is mounted; empty: the journal is with the store")
	f.StringVar(&config.Listen, "listen", ":7443", "host:port that serves controller and gateway")
	f.StringVar(&config.HolderSocket, "holder-socket", "", "socket of the node plugin's holder")
	f.StringVar(&config.TLSDir, "tls-dir", "", "ca.crt, tls.crt and tls.key of the role, which the controller issues")
	f.StringVar(&config.PeerTLSDir, "peer-tls-dir", "", "ca.crt, tls.crt and tls.key between sites, see `lockstep certs`")
	f.StringVar(&config.Lease, "lease", "", "Lease that this engine must hold to write; empty: none")
	f.StringVar(&config.Namespace, "namespace", "", "of the Lease; empty: this pod's")
	f.StringVar(&config.LeaseID, "lease-id", enginepod.PodID(), "this pod in the lease, the same after a restart in it")
	f.DurationVar(&config.HandoverWait, "handover-wait", 0, "how long an engine with a device that is told to end serves on until its successor is there")
	f.StringVar(&config.NBDListen, "nbd-listen", "127.0.0.1:10809", "host:port that shows volume and views to tools; empty: none")
	probes.Register(f)
	log.Register(f)
	return command
}

// complete checks everything before any effect.
func complete(c *enginepod.ProcessConfig, volume string) error {
	err := roleflags.Require(map[string]string{"--volume": volume, "--store-dir": c.StoreDir, "--holder-socket": c.HolderSocket, "--tls-dir": c.TLSDir, "--listen": c.Listen})
	if err != nil {
		return err
	}
	if c.Volume, err = journal.ParseVolumeID(volume); err != nil {
		return roleflags.Misuse("--volume: %v", err)
	}
	for _, dir := range []*string{&c.StoreDir, &c.JournalDir, &c.HolderSocket, &c.TLSDir, &c.PeerTLSDir} {
		if *dir == "" {
			continue
		}
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	return roleflags.ValidateAddresses(map[string]string{"--listen": c.Listen, "--nbd-listen": c.NBDListen})
}
