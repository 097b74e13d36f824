//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
)

// TestLockstepReplica expands a replicated volume, whose replica's backing volume
// follows, and deletes it, whose replica stays until it is removed.
func TestLockstepReplica(t *testing.T) {
	t.Parallel()
	over := backingClass(t, "backing-shared") // which can grow
	a, b := lockstepOnBoth(t)
	here := a.NewNamespace(t)
	there := here.Twin(b)
	// ext4 grows under a mount only where a container may have CAP_SYS_RESOURCE.
	class := here.Class(Class{Over: over, Parameters: map[string]string{"replicateTo": "b", "csi.storage.k8s.io/fstype": "xfs"}})
	there.Class(Class{Over: over})
	here.CreateClaim(Claim{Name: "data", Class: class, Annotations: inGroup})
	here.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	here.Sh("user", "echo kept > /data/f; sync /data/f")
	volume := here.VolumeID("data")
	here.AwaitGroup("shop", "to be in sync with b", streaming)
	there.AwaitPoint("shop", time.Now())

	Report(t, Figure{Name: "replicated volume expanded", Got: here.Expand("data", "2Gi").Seconds(), Unit: "s"})
	grown := time.Now()
	WaitFor(t, volumeTimeout, "the replica's backing volume to grow", func(ctx context.Context) error {
		claim, err := b.Client.CoreV1().PersistentVolumeClaims(SystemNamespace).Get(ctx, "lockstep-"+volume, metav1.GetOptions{})
		if err != nil {
			return err
		}
		have := claim.Status.Capacity[corev1.ResourceStorage]
		if want := resource.MustParse("2Gi"); have.Cmp(want) < 0 {
			return fmt.Errorf("it has %s, and asks for %s", have.String(), claim.Spec.Resources.Requests.Storage())
		}
		return nil
	})
	Report(t, Figure{Name: "expanded at the primary to expanded at the replica", Got: time.Since(grown).Seconds(), Unit: "s"})
	here.Sh("user", "dd if=/dev/urandom of=/data/big bs=1M count=64 conv=fsync 2>/dev/null")
	there.AwaitPoint("shop", time.Now())

	here.DeletePod("user")
	here.DeleteClaim("data")
	there.AwaitGroup("shop", "to be orphaned", func(s *v1alpha1.ConsistencyGroupStatus) error {
		if s.Replication == nil || s.Replication.State != v1alpha1.ReplicationOrphaned || s.NewestPoint == nil {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
	if found := there.orphanedReplicas(t); len(found) != 1 || found[0] != volume {
		t.Errorf("orphaned are %v, want %s", found, volume)
	}
	if _, err := b.Plugin(t.Context(), "orphans", "--remove", "--yes"); err != nil {
		t.Fatal(err)
	}
	there.AwaitVolumeGone(volume)
	if found := there.orphanedReplicas(t); len(found) != 0 {
		t.Errorf("orphaned are %v after they were removed", found)
	}
}

// orphanedReplicas are the ids of the replicas that the plugin lists as orphans.
func (n *Namespace) orphanedReplicas(t *testing.T) []string {
	t.Helper()
	out, err := n.Plugin(t.Context(), "orphans", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Orphans []struct{ Kind, VolumeID, Group, Claim string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("orphans printed %s: %v", out, err)
	}
	var found []string
	for _, o := range list.Orphans {
		if o.Kind == "Replica" && o.Group == n.Namespace+"/shop" {
			if o.Claim != n.Namespace+"/data" {
				t.Errorf("the replica is for claim %q", o.Claim)
			}
			found = append(found, o.VolumeID)
		}
	}
	return found
}
