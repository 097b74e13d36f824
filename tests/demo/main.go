package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

func main() {
	dir := flag.String("dir", os.Getenv(dirVariable), "directory for the sites' files, on the file system to try (default $"+dirVariable+", else the system's for temporary files)")
	bin := flag.String("bin", "", "the lockstep binary (default: build it)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unknown argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, out, stop := harness.Interruptible()
	defer stop()
	if err := run(ctx, out, *dir, *bin); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

// run sets up, shows and takes away.
func run(ctx context.Context, out io.Writer, dir, bin string) (err error) {
	if missing := errors.Join(harness.Missing("mkfs.ext4", "mkfs.xfs", "losetup"), harness.MissingPostgres()); missing != nil {
		return fmt.Errorf("this machine cannot show it:\n%w", missing)
	}
	if dir == "" {
		dir = os.TempDir()
	}
	if err := checkDirectory(dir); err != nil {
		return err
	}
	env, err := harness.New(dir, bin, out)
	if err != nil {
		return err
	}
	began := time.Now()
	defer func() {
		if failed := recover(); failed != nil {
			err = fmt.Errorf("panic: %v", failed)
		}
		if err != nil && ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		err = errors.Join(err, takeAway(env))
		if err == nil {
			fmt.Printf("\nAll of it held, in %s.\n", seconds(time.Since(began)))
		}
	}()
	if bin == "" {
		if env.Bin, err = build(ctx, env); err != nil {
			return err
		}
	} else if env.Bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	return show(ctx, env)
}

// build builds the binary from the module that this program is part of.
func build(ctx context.Context, env *harness.Env) (string, error) {
	out := env.Path("lockstep")
	_, err := harness.Run(ctx, "go", "build", "-o", out, "github.com/lockstep-csi/lockstep/cmd/lockstep")
	return out, err
}

// takeAway undoes everything and makes sure of it. A second signal does not
// interrupt it: half a clean-up would leave devices behind.
func takeAway(env *harness.Env) error {
	fmt.Println("\nCleaning up")
	if err := errors.Join(env.Close(), env.Leftovers(context.Background())); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	fmt.Println("   no process, mount, loop device or file is left")
	return nil
}

// show goes through the steps in order.
func show(ctx context.Context, env *harness.Env) error {
	d := &demo{env: env, page: page{out: env.Out, dir: env.Dir}}
	d.preface()
	for _, step := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"Two sites, mutual TLS between them", d.startSites},
		{"PostgreSQL on two volumes of one group", d.startShop},
		{"Checkpoints every second, a snapshot under load, a replica that fails", d.protect},
		{"DROP TABLE, and the way back", d.rewind},
		{"Site a dies, site b takes over", d.failover},
	} {
		d.step(step.title)
		if err := step.run(ctx); err != nil {
			d.explain(ctx)
			return fmt.Errorf("step %d: %w", d.steps, err)
		}
	}
	return nil
}
