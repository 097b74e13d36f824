//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// backingClass returns a class of the kit, and skips the test elsewhere.
func backingClass(t *testing.T, name string) string {
	t.Helper()
	env.A.Kit(t)
	return name
}

// TestKitClaimToPod runs a pod with a claim of each backing class.
func TestKitClaimToPod(t *testing.T) {
	t.Parallel()
	for _, class := range env.BackingClasses {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			ns := env.A.NewNamespace(t)
			ns.CreateClaim(Claim{Name: "data", Class: class})
			ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
			if got := ns.Sh("user", "echo kept > /data/f; cat /data/f"); got != "kept" {
				t.Errorf("read %q from the volume, want what was written", got)
			}
			volume := ns.Volume("data")
			if volume.Spec.StorageClassName != class {
				t.Errorf("the volume is of class %s, want %s", volume.Spec.StorageClassName, class)
			}
			ns.DeletePod("user")
			ns.DeleteClaim("data")
		})
	}
}

// TestKitReadOnly checks that a read-only mount of a claim is one.
func TestKitReadOnly(t *testing.T) {
	t.Parallel()
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: env.BackingClasses[0]})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data", ReadOnly: true}}})
	if got := ns.Sh("user", "touch /data/f 2>&1 || true"); got == "" {
		t.Error("a file could be made on a read-only mount")
	}
}

// TestKitImmediateNode checks that a claim which no pod waits for is bound,
// and pulls its pod to the volume's node.
func TestKitImmediateNode(t *testing.T) {
	t.Parallel()
	class := backingClass(t, "backing-immediate")
	nodes := env.A.Nodes(t, 2)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: class, Annotations: map[string]string{"cluster.local/node": nodes[1]}})
	ns.Volume("data")
	if pod := ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}}); pod.Spec.NodeName != nodes[1] {
		t.Errorf("the pod runs on %s, and its volume is on %s", pod.Spec.NodeName, nodes[1])
	}
}

// TestKitVolumeMoves moves a volume between nodes, there and back.
func TestKitVolumeMoves(t *testing.T) {
	t.Parallel()
	class := backingClass(t, "backing-shared")
	nodes := env.A.Nodes(t, 2)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: class})
	for i, node := range []string{nodes[0], nodes[1], nodes[0]} {
		name := fmt.Sprintf("user-%d", i)
		if pod := ns.RunPod(Pod{Name: name, Node: node, Mounts: []Mount{{Claim: "data", Path: "/data"}}}); pod.Spec.NodeName != node {
			t.Fatalf("pod %s runs on %s, want %s", name, pod.Spec.NodeName, node)
		}
		if got, want := ns.Sh(name, "echo x >> /data/f; wc -l < /data/f"), fmt.Sprint(i+1); got != want {
			t.Errorf("on %s the file has %s lines, want %s", node, got, want)
		}
		ns.DeletePod(name)
	}
}

// TestKitSizes checks that backing-shared enforces a size and grows a volume
// that a pod uses.
func TestKitSizes(t *testing.T) {
	t.Parallel()
	class := backingClass(t, "backing-shared")
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: class, Size: "300Mi"})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	const fill = "busybox fallocate -l 400m /data/f 2>/dev/null && echo fits || echo full; rm -f /data/f"
	if got := ns.Sh("user", fill); got != "full" {
		t.Errorf("400 MiB into 300 MiB: %s", got)
	}
	took := ns.Expand("data", "600Mi")
	Report(t, Figure{Name: "expansion, " + class, Got: took.Seconds(), Unit: "s"})
	if got := ns.Sh("user", fill); got != "fits" {
		t.Errorf("400 MiB into 600 MiB: %s", got)
	}
}

// TestKitFio runs fio with verification.
func TestKitFio(t *testing.T) {
	t.Parallel()
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: env.BackingClasses[0]})
	run := ns.StartFio(Fio{Name: "fio", Claim: "data"})
	run.AwaitWrites(1000)
	result := run.Stop()
	t.Logf("%d writes, the longest took %s", result.Writes, result.LongestWrite)
	if result.LongestWrite <= 0 {
		t.Errorf("the longest write took %s", result.LongestWrite)
	}
}

// TestKitFioFinds checks that fio finds bytes that it did not write: a test
// that cannot fail proves nothing.
func TestKitFioFinds(t *testing.T) {
	t.Parallel()
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: env.BackingClasses[0]})
	run := ns.StartFio(Fio{Name: "fio", Claim: "data", SizeBytes: 4 << 20})
	ns.Sh("fio", "while test ! -e /tmp/fio.exit; do dd if=/dev/urandom of=/data/fio bs=4k count=1024 conv=notrunc oflag=direct 2>/dev/null; done")
	if _, err := run.stop(t.Context()); err == nil {
		t.Error("fio ended without an error although its file was overwritten")
	} else if !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("fio: %v", err)
	}
}
