//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	ns.AwaitGroup("data", "to count its points by tier", countsPoints)
	ns.AwaitGroup("data", "to have room enough", sufficient(metav1.ConditionTrue))
}

// countsPoints checks the history of a group with the default settings, which is young.
func countsPoints(s *v1alpha1.ConsistencyGroupStatus) error {
	if len(s.History) != 3 {
		return fmt.Errorf("there are %d tiers: %+v", len(s.History), s.History)
	}
	young, last := s.History[0], s.History[2]
	if young.Interval != "1s" || young.Age != "1h" || young.Points < 2 || young.Oldest == nil || young.Journal == nil || young.Journal.IsZero() {
		return fmt.Errorf("the youngest tier is %+v", young)
	}
	if last.Interval != "1h" || last.Age != "7d" || last.Points != 0 || last.Oldest != nil {
		return fmt.Errorf("the last tier is %+v", last)
	}
	return nil
}

// sufficient checks the condition of a group's backing volumes, and what the members say.
func sufficient(want metav1.ConditionStatus) func(*v1alpha1.ConsistencyGroupStatus) error {
	return func(s *v1alpha1.ConsistencyGroupStatus) error {
		c := meta.FindStatusCondition(s.Conditions, v1alpha1.GroupBackingSufficient)
		if c == nil || c.Status != want {
			return fmt.Errorf("the condition is %+v", c)
		}
		for _, m := range s.Members {
			if (m.ShortBy == nil) != (want == metav1.ConditionTrue) {
				return fmt.Errorf("claim %s is short by %v", m.Claim, m.ShortBy)
			}
		}
		return nil
	}
}

// TestLockstepBackingTooSmall checks that a budget for which the backing volume has no
// room, and will not have any, is told at once, and not when it is full.
func TestLockstepBackingTooSmall(t *testing.T) {
	t.Parallel()
	backingClass(t, "backing-attachable")
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	over := ns.Namespace + "-rigid"
	ns.Apply(fmt.Sprintf(classText, over, "attachable.cluster.local", "WaitForFirstConsumer", false, "", "  {}\n"))
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: over, NoExpansion: true, Parameters: map[string]string{"journalSize": "128Mi", "csi.storage.k8s.io/fstype": "xfs"}})})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	ns.AwaitGroup("data", "to have room enough", sufficient(metav1.ConditionTrue))
	ns.setBudget("1Gi")
	ns.AwaitGroup("data", "to have too little room", sufficient(metav1.ConditionFalse))
	ns.setBudget("128Mi")
	ns.AwaitGroup("data", "to have room again", sufficient(metav1.ConditionTrue))
}
