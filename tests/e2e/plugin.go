package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// binary is what `make build` makes, from where the tests run.
const binary = "../../bin/lockstep"

// pluginTimeout bounds a command of the plugin; the longest waits for pods to
// stop.
const pluginTimeout = 5 * time.Minute

// Plugin runs `kubectl lockstep` against the cluster and returns what it
// printed; an error has what it complained of.
func (c *Cluster) Plugin(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	cmd, err := c.pluginCommand(ctx, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return string(out), fmt.Errorf("kubectl lockstep %v: %w", args, err)
	}
	return string(out), nil
}

// pluginCommand is a command of the plugin that has not been started. The
// binary goes by the name that it is called by.
func (c *Cluster) pluginCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Args = append([]string{"kubectl-lockstep", "--kubeconfig", c.Kubeconfig}, args...)
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// Recovered is what a rewind or a failover came to.
type Recovered struct {
	Checkpoint int64
	Time       time.Time // of the point
	ValidUntil time.Time
	RPO        time.Duration        // of a failover
	Entered    map[string]time.Time // when each phase began
}

// between is the time from the beginning of one phase to that of another.
func (r *Recovered) between(from, to v1alpha1.RecoveryPhase) time.Duration {
	return r.Entered[string(to)].Sub(r.Entered[string(from)])
}

// recoveredJSON is the part of the plugin's output that is looked at; see
// cmd/lockstep/output.md.
type recoveredJSON struct {
	Rewind struct{ To pointJSON }
	To     pointJSON // of an undo
	Point  pointJSON // of a failover
	RPO    *string
	// Recovery is the object that was made.
	Recovery struct {
		Phases []struct {
			Phase string
			Time  time.Time
		}
	}
}

type pointJSON struct {
	Checkpoint int64
	Time       time.Time
	ValidUntil time.Time
}

// Recover runs a command of the plugin that makes a Recovery of a group of the
// namespace, and fails the test unless it is completed.
func (n *Namespace) Recover(args ...string) *Recovered {
	n.t.Helper()
	out, err := n.Plugin(n.t.Context(), append([]string{"--namespace", n.Namespace, "-o", "json"}, args...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	r, err := parseRecovered([]byte(out))
	if err != nil {
		n.t.Fatalf("kubectl lockstep %v printed %s: %v", args, out, err)
	}
	return r
}

func parseRecovered(out []byte) (*Recovered, error) {
	var read recoveredJSON
	if err := json.Unmarshal(out, &read); err != nil {
		return nil, err
	}
	point := read.Point
	for _, other := range []pointJSON{read.Rewind.To, read.To} {
		if other.Checkpoint > 0 {
			point = other
		}
	}
	r := &Recovered{Checkpoint: point.Checkpoint, Time: point.Time, ValidUntil: point.ValidUntil, Entered: map[string]time.Time{}}
	if r.Checkpoint == 0 {
		return nil, errors.New("it names no point")
	}
	for _, entry := range read.Recovery.Phases {
		r.Entered[entry.Phase] = entry.Time
	}
	if read.RPO != nil {
		var err error
		if r.RPO, err = time.ParseDuration(*read.RPO); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Group reads a ConsistencyGroup of the namespace.
func (n *Namespace) Group(ctx context.Context, name string) (*v1alpha1.ConsistencyGroup, error) {
	found, err := n.Dynamic.Resource(v1alpha1.GroupVersion.WithResource("consistencygroups")).Namespace(n.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	group := &v1alpha1.ConsistencyGroup{}
	return group, runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, group)
}

// AwaitGroup waits until a group is as ok wants it.
func (n *Namespace) AwaitGroup(name, what string, ok func(*v1alpha1.ConsistencyGroupStatus) error) *v1alpha1.ConsistencyGroup {
	n.t.Helper()
	var group *v1alpha1.ConsistencyGroup
	WaitFor(n.t, groupTimeout, fmt.Sprintf("group %s/%s of cluster %s %s", n.Namespace, name, n.Name, what), func(ctx context.Context) (err error) {
		if group, err = n.Group(ctx, name); err != nil {
			return err
		}
		return ok(&group.Status)
	})
	return group
}

// groupTimeout is how long a group may take to get into a state; its status is
// written every 10 s when nothing but figures changes.
const groupTimeout = 4 * time.Minute

// AwaitPoint waits until a group can be recovered to a moment that is not before
// t, as its controller says.
func (n *Namespace) AwaitPoint(name string, t time.Time) {
	n.t.Helper()
	WaitFor(n.t, groupTimeout, fmt.Sprintf("a point of group %s in cluster %s", name, n.Name), func(ctx context.Context) error {
		out, err := n.Plugin(ctx, "--namespace", n.Namespace, "point", "list", name, "--limit", "1", "-o", "json")
		if err != nil {
			return err
		}
		var list struct{ Points []pointJSON }
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return Final(fmt.Errorf("point list printed %s: %w", out, err))
		}
		if len(list.Points) == 0 {
			return errors.New("there is none")
		}
		if newest := list.Points[0]; newest.ValidUntil.Before(t) {
			return fmt.Errorf("the newest one is of %s, wanted is %s", newest.ValidUntil, t)
		}
		return nil
	})
}
