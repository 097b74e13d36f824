package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// maxDirBytes leaves room for the names of sockets: a path of one has at most
// 107 bytes, see unix(7).
const maxDirBytes = 70

// Env is a directory with everything that a test or demo makes.
type Env struct {
	Dir string // absolute
	Bin string // the lockstep binary
	Out io.Writer

	undo []func() error // run in reverse order by Close
	// devices are those that were attached here at any time, by the names of their files,
	// which nobody else's have; see loops.
	devices map[string]bool
}

// New makes an Env in a directory of its own below parent, which must exist.
// bin is the lockstep binary.
func New(parent, bin string, out io.Writer) (*Env, error) {
	dir, err := os.MkdirTemp(parent, "lockstep-")
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	if len(dir) > maxDirBytes {
		return nil, errors.Join(fmt.Errorf("working directory %s has %d characters, and sockets in it allow %d: choose a directory with a shorter name", dir, len(dir), maxDirBytes), os.Remove(dir))
	}
	// PostgreSQL runs as another user and has to get through.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, fmt.Errorf("open working directory: %w", err)
	}
	e := &Env{Dir: dir, Bin: bin, Out: out, devices: map[string]bool{}}
	e.Undo(func() error { return os.RemoveAll(dir) })
	return e, nil
}

// Undo has fn run by Close, before what was registered earlier.
func (e *Env) Undo(fn func() error) { e.undo = append(e.undo, fn) }

// Close undoes everything. It goes on after errors and returns them all.
func (e *Env) Close() error {
	var errs []error
	for _, fn := range slices.Backward(e.undo) {
		errs = append(errs, fn())
	}
	e.undo = nil
	return errors.Join(errs...)
}

// Path joins names below the Env's directory.
func (e *Env) Path(names ...string) string {
	return filepath.Join(append([]string{e.Dir}, names...)...)
}

// Lockstep runs one command of the CLI against a site and returns what it
// printed.
func (e *Env) Lockstep(ctx context.Context, args ...string) (string, error) {
	return Run(ctx, e.Bin, args...)
}

// Run runs a command and returns its standard output; an error has what it
// wrote to standard error.
func Run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	return output(cmd)
}

func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	name, args := filepath.Base(cmd.Path), cmd.Args[1:]
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(out), fmt.Errorf("%s %v: %w: %s", name, args, err, exit.Stderr)
	}
	if err != nil {
		return string(out), fmt.Errorf("%s %v: %w", name, args, err)
	}
	return string(out), nil
}

// Until calls fn until it returns nil or ctx ends, and then returns fn's last
// error. It is for waiting on other processes.
func Until(ctx context.Context, every time.Duration, fn func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}
