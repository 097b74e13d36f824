package main

import (
	"os"
	"path/filepath"
	"time"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
	"github.com/lockstep-csi/lockstep/internal/endsignal"
)

func main() {
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
	os.Exit(a.run(endsignal.Context(), os.Args[1:]))
}
