package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/cmd/lockstep/cluster"
)

// app is one invocation: the outside world as the commands may see it.
type app struct {
	// name is the base name that the binary was invoked under.
	name           string
	stdin          io.Reader
	stdout, stderr io.Writer
	terminals      terminals
	getenv         func(string) string
	now            func() time.Time
	roles          roles
	host           host
	// kubectl and openCluster are used by the plugin only.
	kubectl     kubectlFlags
	openCluster func(cluster.Options) (*cluster.Cluster, error)

	// started is set once a command's own code runs: an error before that is
	// cobra's, and misuse.
	started bool
}

// terminals tells which of the standard streams a person is at.
type terminals struct {
	stdin, stdout, stderr bool
}

// run executes one command line and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.newRootCommand()
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var misuse *usageError
	if !a.started || errors.As(err, &misuse) {
		a.tell("%s: %v\nsee `%s --help`\n", a.displayName(), err, command.CommandPath())
		return exitUsage
	}
	a.tell("%s: %v\n", a.displayName(), err)
	return exitFailed
}

// tell writes what is no data to standard error. When that fails, there is
// nobody left to tell.
func (a *app) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, format, args...)
}

// hint tells a person what may come next.
func (a *app) hint(format string, args ...any) {
	a.tell(format+"\n", args...)
}

// isTerminal reports whether file is a terminal. The ioctl answers only there.
func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
