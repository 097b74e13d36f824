package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

// The limits are for a machine that is several times slower than the usual one, and
// busy. Nothing is measured by them: figures tell how long a thing takes.
const (
	// pollEvery is how often a condition is looked at, and so the resolution
	// of figures that end with one.
	pollEvery = 50 * time.Millisecond
	// podTimeout is how long a pod may take to be scheduled, get its volumes
	// and start. A kubelet that finds a volume not attached yet looks again after
	// twice as long each time, up to two minutes.
	podTimeout = 4 * time.Minute
	// volumeTimeout is how long a volume may take to be made or taken away.
	volumeTimeout = 4 * time.Minute
	// nodeTimeout is how long Kubernetes may take to notice that a node is
	// gone (20 to 25 s in the kit, 40 to 50 s elsewhere) or is back.
	nodeTimeout = 3 * time.Minute
	// execTimeout is how long a script in a pod may run.
	execTimeout = 2 * time.Minute
	// loadTimeout is more than a test needs to end a load that it has started.
	loadTimeout = 10 * time.Minute
	// cleanTimeout is how long a namespace, or what a test has made, may take to be taken away.
	cleanTimeout = 4 * time.Minute
	// dumpTimeout is how long a dump of a cluster may take.
	dumpTimeout = time.Minute
)

// final is an error that waiting longer does not change.
type final struct{ error }

// Final makes Await give up at once with err: for a condition that can no
// longer come true.
func Final(err error) error { return final{err} }

// Await asks condition until it returns nil, for timeout at most. what
// completes the sentence "waited for …"; the error has it, and what condition
// said last.
func Await(ctx context.Context, timeout time.Duration, what string, condition func(ctx context.Context) error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var last error
	var end final
	err := harness.Until(ctx, pollEvery, func() error {
		err := condition(ctx)
		if errors.As(err, &end) {
			return nil
		}
		// The answer to a request that the time-out cut off says nothing about the state.
		if err != nil && (last == nil || ctx.Err() == nil) {
			last = err
		}
		return err
	})
	waited := time.Since(began).Round(100 * time.Millisecond)
	switch {
	case end.error != nil:
		return fmt.Errorf("waited %s for %s, which will not come: %w", waited, what, end.error)
	case err != nil:
		return fmt.Errorf("waited %s for %s: %w", waited, what, last)
	}
	return nil
}

// WaitFor is Await for a test, which it fails.
func WaitFor(t testing.TB, timeout time.Duration, what string, condition func(ctx context.Context) error) {
	t.Helper()
	if err := Await(t.Context(), timeout, what, condition); err != nil {
		t.Fatal(err)
	}
}
