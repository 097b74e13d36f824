package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

func main() {
	// A second signal kills: NotifyContext gives the default back once the
	// first has been delivered and stop has been called.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	a := &app{
		name:   filepath.Base(os.Args[0]),
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		terminals: terminals{
			stdin:  isTerminal(os.Stdin),
			stdout: isTerminal(os.Stdout),
			stderr: isTerminal(os.Stderr),
		},
		getenv: os.Getenv,
		now:    time.Now,
		roles:  linkedRoles(),
		host:   thisHost(),

		openCluster: cluster.Open,
	}
	os.Exit(a.run(ctx, os.Args[1:]))
}
