//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// attachedTo returns the node that a claim's volume is attached to by
// Kubernetes, or "".
func attachedTo(t *testing.T, ns *Namespace, claim string) string {
	t.Helper()
	volume := ns.Volume(claim)
	list, err := ns.Client.StorageV1().VolumeAttachments().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list.Items {
		if name := a.Spec.Source.PersistentVolumeName; name != nil && *name == volume.Name && a.Status.Attached {
			return a.Spec.NodeName
		}
	}
	return ""
}

// TestKitAttachOnce checks that backing-attachable is on one node at a time:
// a pod elsewhere waits until the first one is gone.
func TestKitAttachOnce(t *testing.T) {
	t.Parallel()
	class := backingClass(t, "backing-attachable")
	nodes := env.A.Nodes(t, 2)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: class})
	mounts := []Mount{{Claim: "data", Path: "/data"}}
	ns.RunPod(Pod{Name: "first", Node: nodes[0], Mounts: mounts})
	ns.Sh("first", "echo mine > /data/f")
	if on := attachedTo(t, ns, "data"); on != nodes[0] {
		t.Errorf("the volume is attached to %q, want %s", on, nodes[0])
	}
	ns.CreatePod(Pod{Name: "second", Node: nodes[1], Mounts: mounts})
	ns.AwaitEvent("second", "FailedAttachVolume")
	began := time.Now()
	ns.DeletePod("first")
	ns.AwaitPod("second")
	Report(t, Figure{Name: "pod deleted to the next one's on another node ready, " + class, Got: time.Since(began).Seconds(), Unit: "s"})
	if got := ns.Sh("second", "cat /data/f"); got != "mine" {
		t.Errorf("the second pod reads %q", got)
	}
	if on := attachedTo(t, ns, "data"); on != nodes[1] {
		t.Errorf("the volume is attached to %q, want %s", on, nodes[1])
	}
}

// TestKitAttachBlock uses a volume as a device, and grows it.
func TestKitAttachBlock(t *testing.T) {
	t.Parallel()
	class := backingClass(t, "backing-attachable")
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "disk", Class: class, Size: "300Mi", Block: true})
	ns.RunPod(Pod{Name: "user", Privileged: true, Mounts: []Mount{{Claim: "disk", Path: "/dev/disk", Block: true}}})
	for _, size := range []int64{300 << 20, 512 << 20} {
		if size > 300<<20 {
			ns.Expand("disk", "512Mi")
		}
		if got, want := ns.Sh("user", "blockdev --getsize64 /dev/disk"), fmt.Sprint(size); got != want {
			t.Errorf("the device has %s bytes, want %s", got, want)
		}
	}
}

// TestKitAttachGrows grows a file system that a pod uses.
func TestKitAttachGrows(t *testing.T) {
	t.Parallel()
	class := backingClass(t, "backing-attachable")
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: class, Size: "300Mi"})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	const fill = "busybox fallocate -l 400m /data/f 2>/dev/null && echo fits || echo full; rm -f /data/f"
	if got := ns.Sh("user", fill); got != "full" {
		t.Errorf("400 MiB into 300 MiB: %s", got)
	}
	Report(t, Figure{Name: "expansion, " + class, Got: ns.Expand("data", "600Mi").Seconds(), Unit: "s"})
	if got := ns.Sh("user", fill); got != "fits" {
		t.Errorf("400 MiB into 600 MiB: %s", got)
	}
}

// TestKitAttachFull checks that a claim for more than the storage has fails as
// it does elsewhere, and goes.
func TestKitAttachFull(t *testing.T) {
	t.Parallel()
	class := backingClass(t, "backing-attachable")
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "huge", Class: class, Size: "2Ti"})
	ns.CreatePod(Pod{Name: "user", Mounts: []Mount{{Claim: "huge", Path: "/data"}}})
	ns.AwaitEvent("huge", "ProvisioningFailed")
	ns.DeletePod("user")
	ns.DeleteClaim("huge")
}
