package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// kitTimeout bounds one command of the kit; the longest boots a node.
const kitTimeout = 5 * time.Minute

// Kit is the power over one site that tests/cluster made. What a test
// switches off is switched on again at its end.
type Kit struct {
	Site    int
	Program string // path of tests/cluster/cluster

	cluster *Cluster
}

// run runs a command of the kit and returns what it printed; an error has what it
// complained of.
func (k *Kit) run(ctx context.Context, args ...string) (string, error) {
	return k.runWithin(ctx, kitTimeout, args...)
}

// runWithin is run for a command that may take so long.
func (k *Kit) runWithin(ctx context.Context, timeout time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.Program, args...)
	cmd.WaitDelay = 5 * time.Second
	// What the kit starts outlives the run, and must not pass for something that the run left behind.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TMPDIR=") })
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("cluster %s: %w: %s%s", strings.Join(args, " "), err, out, complaints.String())
	}
	return string(out), nil
}

func (k *Kit) node(ctx context.Context, verb, name string) error {
	number, ok := strings.CutPrefix(name, fmt.Sprintf("site%d-node", k.Site))
	if !ok {
		return fmt.Errorf("%s is not a node of site %d", name, k.Site)
	}
	_, err := k.run(ctx, "node", verb, "--site", strconv.Itoa(k.Site), "--node", number)
	return err
}

// StopNode takes the power of a node away: all its processes and mounts are
// gone on return. Kubernetes learns of it by itself, later.
func (k *Kit) StopNode(t testing.TB, name string) {
	t.Helper()
	t.Cleanup(func() { // also of one that was stopped halfway
		if err := k.boot(context.Background(), name); err != nil {
			t.Errorf("switch on the node that the test had stopped: %v", err)
		}
	})
	k.must(t, "stop", name)
}

// StartNode boots a node that StopNode stopped; it is Ready on return.
func (k *Kit) StartNode(t testing.TB, name string) {
	t.Helper()
	if err := k.boot(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// boot does nothing to a node that runs.
func (k *Kit) boot(ctx context.Context, name string) error {
	if err := k.node(ctx, "start", name); err != nil {
		return err
	}
	return k.cluster.AwaitNode(ctx, name, true)
}

// CutNode pulls a node's network cable. Its processes and pods go on.
func (k *Kit) CutNode(t testing.TB, name string) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.Background()
		if err := k.node(ctx, "mend", name); err != nil {
			t.Errorf("connect the node that the test had cut off: %v", err)
		} else if err := k.cluster.AwaitNode(ctx, name, true); err != nil {
			t.Error(err)
		}
	})
	k.must(t, "cut", name)
}

// MendNode undoes CutNode; the node is Ready on return.
func (k *Kit) MendNode(t testing.TB, name string) {
	t.Helper()
	k.must(t, "mend", name)
	if err := k.cluster.AwaitNode(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
}

// CutLink drops all packets between this site and another one.
func (k *Kit) CutLink(t testing.TB, to *Kit) {
	t.Helper()
	t.Cleanup(func() {
		if err := k.link(context.Background(), "mend", to); err != nil {
			t.Errorf("connect the sites that the test had cut off: %v", err)
		}
	})
	if err := k.link(t.Context(), "cut", to); err != nil {
		t.Fatal(err)
	}
}

// MendLink undoes CutLink.
func (k *Kit) MendLink(t testing.TB, to *Kit) {
	t.Helper()
	if err := k.link(t.Context(), "mend", to); err != nil {
		t.Fatal(err)
	}
}

func (k *Kit) link(ctx context.Context, verb string, to *Kit) error {
	_, err := k.run(ctx, "link", verb, "--site", strconv.Itoa(k.Site), "--to", strconv.Itoa(to.Site))
	return err
}

func (k *Kit) must(t testing.TB, verb, name string) {
	t.Helper()
	if err := k.node(t.Context(), verb, name); err != nil {
		t.Fatal(err)
	}
}
