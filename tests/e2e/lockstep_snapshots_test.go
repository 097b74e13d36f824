//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-csi/lockstep/tests/harness"
)

var (
	snapshots      = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
	groupSnapshots = schema.GroupVersionResource{Group: "groupsnapshot.storage.k8s.io", Version: "v1", Resource: "volumegroupsnapshots"}
)

// inGroup puts claims of one namespace into one consistency group.
var inGroup = map[string]string{"lockstep.dev/group": "shop"}

// SnapshotClass makes classes of snapshots and group snapshots with the
// namespace's name, which go with it.
func (n *Namespace) SnapshotClass() string {
	n.t.Helper()
	n.Apply(fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotClass
metadata: {name: %[1]s}
driver: %[2]s
deletionPolicy: Delete
---
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshotClass
metadata: {name: %[1]s}
driver: %[2]s
deletionPolicy: Delete
`, n.Namespace, provisioner))
	return n.Namespace
}

// Snapshot makes a VolumeSnapshot of a claim, and returns how long it took
// until it was ready. It goes before the namespace does.
func (n *Namespace) Snapshot(name, class, claim string) time.Duration {
	n.t.Helper()
	return n.snapshot(snapshots, name, fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec: {volumeSnapshotClassName: %s, source: {persistentVolumeClaimName: %s}}
`, name, class, claim))
}

// GroupSnapshot is Snapshot of all claims with the label app.
func (n *Namespace) GroupSnapshot(name, class, app string) time.Duration {
	n.t.Helper()
	return n.snapshot(groupSnapshots, name, fmt.Sprintf(`
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshot
metadata: {name: %s}
spec: {volumeGroupSnapshotClassName: %s, source: {selector: {matchLabels: {app: %s}}}}
`, name, class, app))
}

func (n *Namespace) snapshot(kind schema.GroupVersionResource, name, text string) time.Duration {
	n.t.Helper()
	objects, err := ParseManifests([]byte(text))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
		defer cancel()
		if err := n.Cluster.Delete(ctx, n.Namespace, objects); err != nil {
			n.t.Errorf("clean up: %v", err)
		}
	})
	began := time.Now()
	if err := n.Cluster.Apply(n.t.Context(), n.Namespace, objects); err != nil {
		n.t.Fatal(err)
	}
	WaitFor(n.t, volumeTimeout, "snapshot "+name+" to be ready", func(ctx context.Context) error {
		got, err := n.Dynamic.Resource(kind).Namespace(n.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if ready, _, _ := unstructured.NestedBool(got.Object, "status", "readyToUse"); !ready {
			return fmt.Errorf("its status is %v", got.Object["status"])
		}
		return nil
	})
	return time.Since(began)
}

// fromSnapshot and fromClaim are what a claim is made from.
func fromSnapshot(name string) *corev1.TypedObjectReference {
	group := snapshots.Group
	return &corev1.TypedObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: name}
}

func fromClaim(name string) *corev1.TypedObjectReference {
	return &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: name}
}

// TestLockstepSnapshot takes a snapshot of a volume in use, restores it, and
// clones the volume.
func TestLockstepSnapshot(t *testing.T) {
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: env.BackingClasses[0]})
	snapshotClass := ns.SnapshotClass()
	ns.CreateClaim(Claim{Name: "data", Class: class})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	ns.Sh("user", "echo old > /data/f; sync /data/f")
	Report(t, Figure{Name: "snapshot ready", Got: ns.Snapshot("marker", snapshotClass, "data").Seconds(), Target: 1, Unit: "s"})
	ns.Sh("user", "echo new > /data/f; sync /data/f")
	ns.CreateClaim(Claim{Name: "restored", Class: class, From: fromSnapshot("marker")})
	ns.CreateClaim(Claim{Name: "clone", Class: class, From: fromClaim("data")})
	began := time.Now()
	ns.RunPod(Pod{Name: "reader", Mounts: []Mount{{Claim: "restored", Path: "/restored"}, {Claim: "clone", Path: "/clone"}}})
	Report(t, Figure{Name: "restore and clone to pod running", Got: time.Since(began).Seconds(), Unit: "s"})
	if got := ns.Sh("reader", "cat /restored/f /clone/f"); got != "old\nnew" {
		t.Errorf("restored and cloned volumes hold %q, want old and new", got)
	}
	ns.Sh("reader", "echo changed > /clone/f; sync /clone/f")
	if got := ns.Sh("user", "cat /data/f"); got != "new" {
		t.Errorf("the volume holds %q after its clone was written", got)
	}
}

// memberClass makes a class of volumes that are restored from a group's marker
// with the image of a member.
func (n *Namespace) memberClass(over, member string) string {
	n.t.Helper()
	return n.Class(Class{Over: over, Parameters: map[string]string{"lockstep.dev/member": member}})
}

// TestLockstepGroupSnapshot takes a VolumeGroupSnapshot of two claims and
// restores both.
func TestLockstepGroupSnapshot(t *testing.T) {
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: env.BackingClasses[0]})
	snapshotClass := ns.SnapshotClass()
	for _, name := range []string{"data", "wal"} {
		ns.CreateClaim(Claim{Name: name, Class: class, Annotations: inGroup})
	}
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}, {Claim: "wal", Path: "/wal"}}})
	ns.Sh("user", "echo data > /data/f; echo wal > /wal/f; sync /data/f /wal/f")
	ns.label("data", "wal")
	Report(t, Figure{Name: "group snapshot ready", Got: ns.GroupSnapshot("both", snapshotClass, "shop").Seconds(), Target: 1, Unit: "s"})
	ns.Sh("user", "rm /data/f /wal/f; sync /data /wal")
	var list *unstructured.UnstructuredList
	WaitFor(t, volumeTimeout, "the group snapshot to have two snapshots", func(ctx context.Context) (err error) {
		list, err = ns.Dynamic.Resource(snapshots).Namespace(ns.Namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) != 2 {
			err = fmt.Errorf("it has %d", len(list.Items))
		}
		return err
	})
	own := ns.Class(Class{Over: env.BackingClasses[0]})
	var mounts []Mount
	for _, s := range list.Items {
		name := fmt.Sprintf("restored-%d", len(mounts))
		ns.CreateClaim(Claim{Name: name, Class: own, From: fromSnapshot(s.GetName())})
		mounts = append(mounts, Mount{Claim: name, Path: fmt.Sprintf("/%d", len(mounts))})
	}
	ns.RunPod(Pod{Name: "reader", Mounts: mounts})
	got := strings.Fields(ns.Sh("reader", "cat /0/f /1/f | sort"))
	if strings.Join(got, " ") != "data wal" {
		t.Errorf("the restored volumes hold %q", got)
	}
}

// label gives claims the label that GroupSnapshot selects.
func (n *Namespace) label(claims ...string) {
	n.t.Helper()
	for _, name := range claims {
		n.modifyClaim(name, func(c *corev1.PersistentVolumeClaim) { c.Labels = map[string]string{"app": "shop"} })
	}
}

// TestLockstepPostgres takes a snapshot of PostgreSQL on two journaled claims
// under load, restores both, and counts the orders that had been acknowledged
// before.
func TestLockstepPostgres(t *testing.T) {
	lockstepOn(t, env.A)
	ctx := t.Context()
	ns := env.A.NewNamespace(t)
	over := env.BackingClasses[0]
	class := ns.Class(Class{Over: over})
	snapshotClass := ns.SnapshotClass()
	p := ns.RunPostgres(PostgresSpec{Name: "shop", DataClass: class, WALClass: class, ClaimAnnotations: inGroup})
	p.CreateDatabase(1)
	ledger := p.StartLedger("orders", 2)
	bench := make(chan error, 1)
	var result harness.PgbenchResult
	go func() {
		var err error
		result, err = p.Pgbench(ctx, 2, 8*time.Second)
		bench <- err
	}()
	WaitFor(t, podTimeout, "20 acknowledged orders", func(context.Context) error {
		if n := ledger.Acked(); n < 20 {
			return fmt.Errorf("there are %d (%v)", n, ledger.Err())
		}
		return nil
	})
	asked := time.Now()
	Report(t, Figure{Name: "snapshot of PostgreSQL under pgbench ready", Got: ns.Snapshot("marker", snapshotClass, p.DataClaim).Seconds(), Target: 1, Unit: "s"})
	if err := <-bench; err != nil {
		t.Fatal(err)
	}
	Report(t, Figure{Name: "pgbench, 2 clients, journaled " + over, Got: result.TPS, Unit: "TPS"})
	ledger.Stop()
	wal := ns.memberClass(over, ns.VolumeID(p.WALClaim))
	plain := ns.Class(Class{Over: over})
	ns.CreateClaim(Claim{Name: "pgdata-restored-0", Class: plain, From: fromSnapshot("marker")})
	ns.CreateClaim(Claim{Name: "pgwal-restored-0", Class: wal, From: fromSnapshot("marker")})
	began := time.Now()
	restored := ns.RunPostgres(PostgresSpec{Name: "restored", DataClass: plain, WALClass: wal})
	Report(t, Figure{Name: "PostgreSQL restored from a marker to ready", Got: time.Since(began).Seconds(), Unit: "s"})
	found, err := ledger.Check(ctx, restored, asked)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d orders acknowledged in all, %d in the restored table", found.AckedAll, found.Present)
	if err := harness.CheckPgbench(ctx, restored); err != nil {
		t.Error(err)
	}
	checkDatabase(t, p, ledger)
}
