package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

const (
	mib = int64(1) << 20
	// testTimeout bounds everything that a test waits for.
	testTimeout = 2 * time.Minute
	groupName   = "shop"
)

var (
	lockstepBin string // the lockstep binary, built once
	missing     error  // why nothing can be tested here
	rounds      = 1
)

func TestMain(m *testing.M) {
	missing = errors.Join(harness.Missing("fio", "mkfs.ext4", "e2fsck", "mkfs.xfs", "xfs_repair", "losetup", "nbdcopy"), harness.MissingPostgres())
	if missing != nil {
		os.Exit(m.Run())
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lockstep-test-")
	if err == nil {
		defer func() {
			if err := os.RemoveAll(dir); err != nil {
				fmt.Fprintln(os.Stderr, "integration:", err)
			}
		}()
		lockstepBin = filepath.Join(dir, "lockstep")
		_, err = harness.Run(context.Background(), "go", "build", "-o", lockstepBin, "github.com/lockstep-csi/lockstep/cmd/lockstep")
	}
	if text := os.Getenv("LOCKSTEP_TEST_ROUNDS"); text != "" && err == nil {
		if rounds, err = strconv.Atoi(text); err == nil && rounds < 1 {
			err = errors.New("LOCKSTEP_TEST_ROUNDS is below 1")
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		return 1
	}
	return m.Run()
}

// newEnv returns an Env that the end of the test takes away, and a context for
// everything that the test waits for.
func newEnv(t *testing.T) (context.Context, *harness.Env) {
	t.Helper()
	if missing != nil {
		t.Skipf("no site was run and nothing was tested: %v", missing)
	}
	parent := os.Getenv("LOCKSTEP_TEST_DIR")
	if parent == "" {
		parent = os.TempDir()
	}
	env, err := harness.New(parent, lockstepBin, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout*time.Duration(rounds))
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(env.Close(), env.Leftovers(context.Background())); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return ctx, env
}

// roundContext is for what one round of a test waits for, where a busy machine decides how
// many there are and how long each takes.
func roundContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// must fails the test on an error and returns the value; it is called as
// must(f())(t).
func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		check(t, err)
		return value
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
