package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// NBDFile shows an NBD export as a file in an empty directory, by nbdfuse, which
// needs no module of the kernel. remove takes it away; so does the Env's Close.
func (e *Env) NBDFile(ctx context.Context, uri, dir string) (file string, remove func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("nbdfuse", dir, uri)
	cmd.Stdout, cmd.Stderr = e.Out, e.Out
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	done := false
	remove = func() error {
		if done {
			return nil
		}
		done = true
		err := Unmount(dir) // nbdfuse ends with it
		select {
		case failed := <-ended:
			return errors.Join(err, failed)
		case <-time.After(leftoversTimeout):
			return errors.Join(err, fmt.Errorf("nbdfuse of %s does not end", dir), cmd.Process.Kill(), <-ended)
		}
	}
	e.Undo(remove)
	file = filepath.Join(dir, "nbd")
	err = Until(ctx, 10*time.Millisecond, func() error {
		_, err := os.Stat(file)
		return err
	})
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("show %s as a file: %w", uri, err), remove())
	}
	return file, remove, nil
}
