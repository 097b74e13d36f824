//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestLockstepMount checks what a pod asks of a volume's mount: options,
// read-only, and a group that may write.
func TestLockstepMount(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: env.BackingClasses[0], Options: []string{"noatime"}})})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user"},
		Spec: Pod{User: 1234, Mounts: []Mount{{Claim: "data", Path: "/data"}}}.spec(ns.Images.Tools)}
	group := int64(4321)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	if _, err := ns.Client.CoreV1().Pods(ns.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ns.AwaitPod("user")
	if got := ns.Sh("user", "echo mine > /data/f; stat -c %g /data/f; grep ' /data ' /proc/mounts"); !strings.HasPrefix(got, "4321\n") || !strings.Contains(got, "noatime") {
		t.Errorf("group of a new file, and the mount: %q", got)
	}
	ns.DeletePod("user")
	ns.RunPod(Pod{Name: "reader", Mounts: []Mount{{Claim: "data", Path: "/data", ReadOnly: true}}})
	if got := ns.Sh("reader", "cat /data/f; touch /data/g 2>&1 || true"); !strings.HasPrefix(got, "mine\n") || !strings.Contains(got, "Read-only") {
		t.Errorf("a pod that mounts read-only reads and writes %q", got)
	}
}

// TestLockstepReadOnlyBlock checks that pods can have a device read-only beside
// one that writes to it.
func TestLockstepReadOnlyBlock(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "raw", Class: ns.Class(Class{Over: env.BackingClasses[0]}), Block: true})
	writer := ns.RunPod(Pod{Name: "writer", Mounts: []Mount{{Claim: "raw", Path: "/dev/raw", Block: true}}})
	ns.Sh("writer", "echo mine | dd of=/dev/raw bs=512 conv=sync,fsync,notrunc 2>/dev/null")
	ns.RunPod(Pod{Name: "reader", Node: writer.Spec.NodeName, Mounts: []Mount{{Claim: "raw", Path: "/dev/raw", Block: true, ReadOnly: true}}})
	if got := ns.Sh("reader", "dd if=/dev/raw bs=512 count=1 2>/dev/null | tr -d '\\0'; if echo other > /dev/raw; then echo written; else echo refused; fi 2>/dev/null"); got != "mine\nrefused" {
		t.Errorf("a pod that has a device read-only reads and writes: %q", got)
	}
}

// TestLockstepOncePod checks that a ReadWriteOncePod volume is one pod's.
func TestLockstepOncePod(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Mode: corev1.ReadWriteOncePod, Class: ns.Class(Class{Over: env.BackingClasses[0]})})
	mounts := []Mount{{Claim: "data", Path: "/data"}}
	ns.RunPod(Pod{Name: "first", Mounts: mounts})
	ns.CreatePod(Pod{Name: "second", Mounts: mounts})
	ns.AwaitEvent("second", "FailedScheduling")
	ns.DeletePod("first")
	ns.AwaitPod("second")
}

// TestLockstepExpand grows volumes that pods use: a file system and a device,
// over classes that grow. The file system is XFS: the kernel lets nobody grow a
// mounted ext4 on a machine whose root lacks CAP_SYS_RESOURCE, which is common
// where this runs.
func TestLockstepExpand(t *testing.T) {
	t.Parallel()
	for _, over := range env.BackingClasses {
		class, err := env.A.Client.StorageV1().StorageClasses().Get(t.Context(), over, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
			continue
		}
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			lockstepOn(t, env.A)
			ns := env.A.NewNamespace(t)
			class := ns.Class(Class{Over: over, Parameters: map[string]string{"csi.storage.k8s.io/fstype": "xfs"}})
			ns.CreateClaim(Claim{Name: "data", Class: class})
			ns.CreateClaim(Claim{Name: "raw", Class: class, Block: true})
			ns.RunPod(Pod{Name: "user", Privileged: true, Mounts: []Mount{{Claim: "data", Path: "/data"}, {Claim: "raw", Path: "/dev/raw", Block: true}}})
			ns.Sh("user", "echo kept > /data/f; sync /data/f")
			Report(t, Figure{Name: "expansion under a pod, journaled " + over, Got: ns.Expand("data", "2Gi").Seconds(), Unit: "s"})
			ns.Expand("raw", "2Gi")
			var blocks, blockBytes, deviceBytes int64
			if _, err := fmt.Sscan(ns.Sh("user", "stat -f -c '%b %S' /data; blockdev --getsize64 /dev/raw"), &blocks, &blockBytes, &deviceBytes); err != nil {
				t.Fatal(err)
			}
			if blocks*blockBytes < 19<<26 || deviceBytes != 2<<30 {
				t.Errorf("the file system has %d bytes and the device %d, want 2 GiB", blocks*blockBytes, deviceBytes)
			}
			if got := ns.Sh("user", "cat /data/f"); got != "kept" {
				t.Errorf("the file holds %q", got)
			}
		})
	}
}

// TestLockstepNoExpansion checks that a backing class that cannot grow keeps a
// volume from growing, and that the claim says so.
func TestLockstepNoExpansion(t *testing.T) {
	t.Parallel()
	over := backingClass(t, "backing-wffc")
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: over})})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	ns.requestSize("data", "2Gi")
	ns.AwaitEvent("data", "VolumeResizeFailed", over)
	ns.Sh("user", "echo alive > /data/f; sync /data/f")
}

// TestLockstepModify changes a group's settings with a VolumeAttributesClass.
func TestLockstepModify(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: env.BackingClasses[0]})})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	ns.Apply(fmt.Sprintf(`
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: %s}
driverName: %s
parameters: {checkpointInterval: 100ms, window: 7d}
`, ns.Namespace, provisioner))
	ns.modifyClaim("data", func(claim *corev1.PersistentVolumeClaim) { claim.Spec.VolumeAttributesClassName = &ns.Namespace })
	WaitFor(t, volumeTimeout, "the claim to be modified", func(ctx context.Context) error {
		claim, err := ns.Client.CoreV1().PersistentVolumeClaims(ns.Namespace).Get(ctx, "data", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if now := claim.Status.CurrentVolumeAttributesClassName; now == nil || *now != ns.Namespace {
			return fmt.Errorf("its status is %v", claim.Status)
		}
		return nil
	})
	// A volume of a class that is gone is not modified back by its deletion.
	ns.DeletePod("user")
	ns.DeleteClaim("data")
}

// TestLockstepClassErrors checks that a class which cannot work says why on
// the claim, and that nothing stays of the claim.
func TestLockstepClassErrors(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	over := env.BackingClasses[0]
	own := ns.Class(Class{Over: over})
	for name, k := range map[string]struct {
		class Class
		want  string
	}{
		"own":             {Class{Over: own, Immediate: true}, "is of " + provisioner + " itself"},
		"missing":         {Class{Over: "there-is-none"}, "there-is-none does not exist"},
		"typo":            {Class{Over: over, Parameters: map[string]string{"checkpointIntervall": "1s"}}, "unknown parameters checkpointIntervall"},
		"range":           {Class{Over: over, Immediate: true, Parameters: map[string]string{"window": "5s"}}, "want 1m0s to"},
		"own-journal":     {Class{Over: over, Parameters: map[string]string{"journalStorageClass": own}}, "is of " + provisioner + " itself"},
		"missing-journal": {Class{Over: over, Parameters: map[string]string{"journalStorageClass": "nothing-fast"}}, "nothing-fast does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := ns.For(t)
			ns.CreateClaim(Claim{Name: name, Class: ns.Class(k.class)})
			if !k.class.Immediate {
				// The scheduler has to come as far as that the provisioner is asked.
				ns.CreatePod(Pod{Name: name, Mounts: []Mount{{Claim: name, Path: "/data"}}})
			}
			ns.AwaitEvent(name, "ProvisioningFailed", k.want)
			if !k.class.Immediate {
				ns.DeletePod(name)
			}
			ns.DeleteClaim(name)
			ns.awaitNothingOf(name)
		})
	}
}
