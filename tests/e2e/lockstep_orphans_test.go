//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// leftovers are what a volume that nobody knows has left: an engine pod, its
// lease and budget, a claim that nobody can bind, and one that is bound.
const leftovers = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: lockstep-VOLUME, namespace: lockstep, LABELS}
spec: {storageClassName: CLASS, accessModes: [ReadWriteOnce], resources: {requests: {storage: 300Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: lockstep-VOLUME-journal, namespace: lockstep, LABELS}
spec: {storageClassName: there-is-none, accessModes: [ReadWriteOnce], resources: {requests: {storage: 300Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: engine-VOLUME, namespace: lockstep, LABELS}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - {name: engine, image: IMAGE, imagePullPolicy: IfNotPresent, command: [sh, -c, "SCRIPT"], volumeMounts: [{name: store, mountPath: /store}]}
  volumes: [{name: store, persistentVolumeClaim: {claimName: lockstep-VOLUME}}]
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: engine-VOLUME, namespace: lockstep, LABELS}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: engine-VOLUME, namespace: lockstep, LABELS}
spec: {minAvailable: 1, selector: {matchLabels: {lockstep.dev/volume: VOLUME}}}
`

// TestLockstepOrphans leaves what a volume has whose catalog entry is lost. The
// controller sweeps what holds no data; the plugin shows the claim that may,
// beside nothing of a volume that is in use, and removes it.
func TestLockstepOrphans(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: env.BackingClasses[0]})})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	const volume = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
	own := []string{volume, ns.VolumeID("data")} // what other tests are taking away is theirs
	status, err := env.A.Admin(t).GetStatus(t.Context(), &adminv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	of := func(site string) string {
		return strings.NewReplacer("VOLUME", volume, "CLASS", env.BackingClasses[0], "IMAGE", ns.Images.Tools, "SCRIPT", idle,
			"LABELS", fmt.Sprintf("labels: {%s: %s, lockstep.dev/site: %s}, annotations: {%s: lost/data}", volumeLabel, volume, site, claimAnnotation)).Replace(leftovers)
	}
	ns.Apply(of("elsewhere")) // until the claim is bound, it is nobody's here
	WaitFor(t, volumeTimeout, "the claim to be bound", func(ctx context.Context) error {
		got, err := ns.Client.CoreV1().PersistentVolumeClaims(SystemNamespace).Get(ctx, "lockstep-"+volume, metav1.GetOptions{})
		if err == nil && got.Status.Phase != corev1.ClaimBound {
			err = fmt.Errorf("it is %s", got.Status.Phase)
		}
		return err
	})
	ns.Apply(of(status.GetSite()))
	claim := "PersistentVolumeClaim/lockstep-" + volume
	WaitFor(t, volumeTimeout, "what holds no data to be swept", func(ctx context.Context) error {
		got, err := ns.orphans(ctx, own)
		if err == nil && !slices.Equal(got, []string{claim}) {
			err = fmt.Errorf("there are %v", got)
		}
		return err
	})
	ns.Sh("user", "echo alive > /data/f; sync /data/f") // nothing of it was swept
	if got, err := ns.orphans(t.Context(), own, "--remove", "--yes"); err != nil || !slices.Equal(got, []string{claim}) {
		t.Errorf("removed are %v (%v), want %s", got, err, claim)
	}
	WaitFor(t, volumeTimeout, "the claim to go", func(ctx context.Context) error {
		got, err := ns.orphans(ctx, own)
		if err == nil && len(got) != 0 {
			err = fmt.Errorf("there are %v", got)
		}
		return errors.Join(err, ns.objectsOf(ctx, volume))
	})
}

// orphans are what `kubectl lockstep orphans` prints of some volumes, as
// KIND/NAME.
func (c *Cluster) orphans(ctx context.Context, of []string, args ...string) ([]string, error) {
	out, err := c.Plugin(ctx, append([]string{"orphans", "-o", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	var document struct {
		Orphans []struct{ Kind, Name, VolumeID string }
	}
	if err := json.Unmarshal([]byte(out), &document); err != nil {
		return nil, fmt.Errorf("parse %q: %w", out, err)
	}
	var names []string
	for _, o := range document.Orphans {
		if slices.Contains(of, o.VolumeID) {
			names = append(names, o.Kind+"/"+o.Name)
		}
	}
	return names, nil
}
