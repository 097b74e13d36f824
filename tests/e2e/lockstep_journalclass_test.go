//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// backingOf returns a claim that a volume lives on: that of its store, or with
// the suffix "-journal" that of its journal.
func (n *Namespace) backingOf(volume, suffix string) *corev1.PersistentVolumeClaim {
	n.t.Helper()
	claim, err := n.Client.CoreV1().PersistentVolumeClaims(SystemNamespace).Get(n.t.Context(), "lockstep-"+volume+suffix, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return claim
}

// storeOf lists what a volume's engine has in its two directories, as the pod
// killer of its node sees them. A third line has their file systems.
func (n *Namespace) storeOf(volume string) (base, journal, fileSystems string) {
	n.t.Helper()
	script := fmt.Sprintf(`for p in /proc/[0-9]*; do
if tr '\0' ' ' < $p/cmdline 2>/dev/null | grep -qe '[-]-volume=%s'; then
  cd $p/root && echo store/store-1/* && echo journal/store-1/* && stat -c %%d store journal | tr '\n' ' ' && exit
fi; done`, volume)
	lines := strings.Split(n.Sh("killer", script), "\n")
	if len(lines) != 3 {
		n.t.Fatalf("the engine of volume %s is not seen: %q", volume, lines)
	}
	return lines[0], lines[1], lines[2]
}

// TestLockstepJournalClass uses a volume whose journal is on a backing class of
// its own: what is where, engines that are killed, snapshots and what is made of
// them, growth, another node, and that nothing is left.
func TestLockstepJournalClass(t *testing.T) {
	over, fast := backingClass(t, "backing-attachable"), backingClass(t, "backing-shared")
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: over, Parameters: map[string]string{"journalStorageClass": fast, "journalSize": "256Mi", "csi.storage.k8s.io/fstype": "xfs"}})
	mounts := []Mount{{Claim: "data", Path: "/data"}}
	ns.CreateClaim(Claim{Name: "data", Class: class})
	node := ns.RunPod(Pod{Name: "user", Mounts: mounts}).Spec.NodeName
	ns.RunPod(Pod{Name: "killer", Node: node, Privileged: true, HostPID: true})
	volume := ns.VolumeID("data")
	base, journal := ns.backingOf(volume, ""), ns.backingOf(volume, "-journal")
	if *base.Spec.StorageClassName != over || *journal.Spec.StorageClassName != fast {
		t.Errorf("the claims are of %s and %s", *base.Spec.StorageClassName, *journal.Spec.StorageClassName)
	}
	ns.Sh("user", "echo old > /data/f; sync /data/f")
	inBase, inJournal, fileSystems := ns.storeOf(volume)
	if strings.Contains(inBase, "journal") || !strings.Contains(inBase, "base.img") || !strings.Contains(inJournal, ".seg") || !strings.Contains(inJournal, "journal.json") {
		t.Errorf("the store holds %s, the journal %s", inBase, inJournal)
	}
	if devices := strings.Fields(fileSystems); len(devices) != 2 || devices[0] == devices[1] {
		t.Errorf("store and journal are on file systems %s", fileSystems)
	}

	t.Run("engine killed under fio", func(t *testing.T) {
		ns := ns.For(t)
		run := ns.StartFio(Fio{Name: "fio", Claim: "data", Node: node})
		run.AwaitWrites(1000)
		ns.killEngine(t, volume)
		run.AwaitMore(1000)
		ns.replaceEngine(t, volume, metav1.DeleteOptions{})
		run.AwaitMore(1000)
		run.Stop()
		ns.DeletePod("fio")
	})

	snapshotClass := ns.SnapshotClass()
	ns.Snapshot("marker", snapshotClass, "data")
	ns.Sh("user", "echo new > /data/f; sync /data/f")
	ns.CreateClaim(Claim{Name: "restored", Class: class, From: fromSnapshot("marker")})
	ns.RunPod(Pod{Name: "reader", Mounts: []Mount{{Claim: "restored", Path: "/restored"}}})
	if got := ns.Sh("reader", "cat /restored/f"); got != "old" {
		t.Errorf("the restored volume holds %q", got)
	}
	restored := ns.VolumeID("restored")
	if got := *ns.backingOf(restored, "-journal").Spec.StorageClassName; got != fast {
		t.Errorf("the restored volume's journal is of class %s", got)
	}

	t.Run("growth", func(t *testing.T) { ns.For(t).growBoth(volume) })

	if nodes := env.A.Nodes(t, 1); len(nodes) > 1 {
		other := nodes[0]
		if other == node {
			other = nodes[1]
		}
		ns.DeletePod("user")
		ns.RunPod(Pod{Name: "mover", Node: other, Mounts: mounts})
		if got := ns.Sh("mover", "cat /data/f"); got != "new" {
			t.Errorf("on node %s the volume holds %q", other, got)
		}
		ns.DeletePod("mover")
	} else {
		ns.DeletePod("user")
	}
	ns.DeletePod("reader")
	ns.deleteSnapshot("marker")
	for claim, id := range map[string]string{"data": volume, "restored": restored} {
		ns.DeleteClaim(claim)
		ns.AwaitVolumeGone(id)
	}
}

// deleteSnapshot deletes a VolumeSnapshot, and waits until it is gone: its pin
// keeps the volume that it is of.
func (n *Namespace) deleteSnapshot(name string) {
	n.t.Helper()
	all := n.Dynamic.Resource(snapshots).Namespace(n.Namespace)
	if err := all.Delete(n.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		n.t.Fatal(err)
	}
	WaitFor(n.t, volumeTimeout, "snapshot "+name+" to go", func(ctx context.Context) error {
		_, err := all.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			err = errors.New("it is there")
		}
		return err
	})
}

// growBoth expands the volume, which grows the store's claim, and then the
// budget of its group, which grows the journal's.
func (n *Namespace) growBoth(volume string) {
	n.t.Helper()
	before := n.backingOf(volume, "-journal").Status.Capacity.Storage().Value()
	n.Expand("data", "2Gi")
	if got := n.backingOf(volume, "").Status.Capacity.Storage().Value(); got < 2<<30 {
		n.t.Errorf("the store's claim has %d bytes", got)
	}
	if got := n.backingOf(volume, "-journal").Status.Capacity.Storage().Value(); got != before {
		n.t.Errorf("the journal's claim has %d bytes, and had %d", got, before)
	}
	n.Apply(`
apiVersion: lockstep.dev/v1alpha1
kind: ConsistencyGroup
metadata: {name: data}
spec: {journalSize: 512Mi}
`)
	WaitFor(n.t, volumeTimeout, "the journal's claim to grow", func(context.Context) error {
		claim, err := n.Client.CoreV1().PersistentVolumeClaims(SystemNamespace).Get(n.t.Context(), "lockstep-"+volume+"-journal", metav1.GetOptions{})
		if err == nil && claim.Status.Capacity.Storage().Value() < before+(384<<20) {
			err = fmt.Errorf("it has %d bytes, conditions %v", claim.Status.Capacity.Storage().Value(), claim.Status.Conditions)
		}
		return err
	})
}
