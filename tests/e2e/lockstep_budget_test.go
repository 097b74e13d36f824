//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// setBudget gives the group of the claim data a journal budget of its own.
func (n *Namespace) setBudget(size string) {
	n.t.Helper()
	n.Apply(fmt.Sprintf(`
apiVersion: lockstep.dev/v1alpha1
kind: ConsistencyGroup
metadata: {name: data}
spec: {journalSize: %s}
`, size))
	n.AwaitGroup("data", "to have the budget", func(s *v1alpha1.ConsistencyGroupStatus) error {
		if s.Settings == nil || s.Settings.JournalSize == nil || s.Settings.JournalSize.String() != size {
			return fmt.Errorf("its settings are %+v", s.Settings)
		}
		return nil
	})
}

// TestLockstepJournalBudget checks that a larger budget grows the one claim that a
// volume has, under a pod and at rest, while the volume keeps its size.
func TestLockstepJournalBudget(t *testing.T) {
	t.Parallel()
	over := backingClass(t, "backing-attachable")
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: over, Parameters: map[string]string{"journalSize": "128Mi", "csi.storage.k8s.io/fstype": "xfs"}})})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	volume := ns.VolumeID("data")
	grows := func(to string) {
		t.Helper()
		before := ns.backingOf(volume, "").Status.Capacity.Storage().Value()
		ns.setBudget(to)
		WaitFor(t, volumeTimeout, "the backing claim to grow for a budget of "+to, func(context.Context) error {
			claim := ns.backingOf(volume, "")
			if got := claim.Status.Capacity.Storage().Value(); got < before+(128<<20) {
				return fmt.Errorf("it has %d bytes, and had %d; conditions %v", got, before, claim.Status.Conditions)
			}
			return nil
		})
	}
	grows("256Mi")
	ns.Sh("user", "echo kept > /data/f; sync /data/f")
	ns.DeletePod("user")
	grows("512Mi")
	ns.RunPod(Pod{Name: "again", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	if got := ns.Sh("again", "cat /data/f"); got != "kept" {
		t.Errorf("the file holds %q", got)
	}
}

// TestLockstepJournalBudgetWithoutExpansion checks that a backing class which
// cannot grow takes a larger budget, and leaves the group as ready as it was.
func TestLockstepJournalBudgetWithoutExpansion(t *testing.T) {
	t.Parallel()
	over := backingClass(t, "backing-wffc")
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: over, Parameters: map[string]string{"journalSize": "128Mi"}})})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	ns.setBudget("256Mi")
	ns.AwaitGroup("data", "to be ready", func(s *v1alpha1.ConsistencyGroupStatus) error {
		for _, m := range s.Members {
			if m.Reason != "" {
				return fmt.Errorf("claim %s: %s: %s", m.Claim, m.Reason, m.Message)
			}
		}
		if s.NewestPoint == nil {
			return fmt.Errorf("it has no point: %+v", s.Conditions)
		}
		return nil
	})
}
