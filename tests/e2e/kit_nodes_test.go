//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bootID tells one run of a node from the next.
func bootID(t *testing.T, c *Cluster, node string) string {
	t.Helper()
	got, err := c.Client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Status.NodeInfo.BootID
}

// unreachable checks that no command runs in a pod whose node is gone. The API
// server would try for a minute.
func unreachable(t *testing.T, ns *Namespace, pod string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := ns.Exec(ctx, ns.Namespace, pod, "true"); err == nil {
		t.Errorf("a command runs in pod %s, whose node is gone", pod)
	}
}

// TestKitNodeStop takes a node's power away while a pod has volumes there, and
// checks that Kubernetes notices, and that the node comes back as another run of
// the same one. A pod elsewhere gets a shared volume at once. One that is attached
// stays where it is until the node is declared out of service: this is what keeps
// two nodes from writing at once.
func TestKitNodeStop(t *testing.T) {
	shared, attached := backingClass(t, "backing-shared"), backingClass(t, "backing-attachable")
	nodes := env.A.Nodes(t, 2)
	kit, node := env.A.Kit(t), nodes[1]
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "shared", Class: shared})
	ns.CreateClaim(Claim{Name: "attached", Class: attached})
	mounts := []Mount{{Claim: "shared", Path: "/shared"}, {Claim: "attached", Path: "/attached"}}
	ns.RunPod(Pod{Name: "first", Node: node, Mounts: mounts})
	ns.Sh("first", "echo before | tee /shared/f > /attached/f; sync /shared/f /attached/f")
	boot := bootID(t, env.A, node)

	kit.StopNode(t, node)
	stopped := time.Now()
	unreachable(t, ns, "first")
	if err := env.A.AwaitNode(t.Context(), node, false); err != nil {
		t.Fatal(err)
	}
	Report(t, Figure{Name: "node stopped to NotReady", Got: time.Since(stopped).Seconds(), Unit: "s"})
	ns.ForgetPod("first")
	ns.RunPod(Pod{Name: "sharing", Node: nodes[0], Mounts: mounts[:1]})
	if got := ns.Sh("sharing", "cat /shared/f"); got != "before" {
		t.Errorf("a pod elsewhere reads %q, want what the first wrote", got)
	}
	ns.CreatePod(Pod{Name: "second", Node: nodes[0], Mounts: mounts[1:]})
	ns.AwaitEvent("second", "FailedAttachVolume")
	if on := attachedTo(t, ns, "attached"); on != node {
		t.Errorf("the volume is attached to %q, want the node that is gone", on)
	}
	began := time.Now()
	env.A.MarkOutOfService(t, node)
	ns.AwaitPod("second")
	Report(t, Figure{Name: "node out of service to pod on another ready, " + attached, Got: time.Since(began).Seconds(), Unit: "s"})
	if got := ns.Sh("second", "cat /attached/f"); got != "before" {
		t.Errorf("the second pod reads %q, want what the first had synced", got)
	}
	env.A.MarkInService(t, node)

	started := time.Now()
	kit.StartNode(t, node)
	Report(t, Figure{Name: "node started to Ready", Got: time.Since(started).Seconds(), Unit: "s"})
	if again := bootID(t, env.A, node); again == boot {
		t.Errorf("the node has boot id %s before and after its stop", boot)
	}
	WaitFor(t, podTimeout, "the volume to be on "+nodes[0]+" only", func(context.Context) error {
		if on := attachedTo(t, ns, "attached"); on != nodes[0] {
			return fmt.Errorf("it is attached to %q", on)
		}
		return nil
	})
	ns.RunPod(Pod{Name: "third", Node: node, Mounts: mounts[:1]})
}

// TestKitNodeCut pulls a node's cable: its pods go on and nobody reaches them.
func TestKitNodeCut(t *testing.T) {
	nodes := env.A.Nodes(t, 2)
	kit, node := env.A.Kit(t), nodes[1]
	ns := env.A.NewNamespace(t)
	pod := ns.RunPod(Pod{Name: "counter", Node: node, Script: "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done"})

	kit.CutNode(t, node)
	cut := time.Now()
	if err := env.A.AwaitNode(t.Context(), node, false); err != nil {
		t.Fatal(err)
	}
	Report(t, Figure{Name: "node cut off to NotReady", Got: time.Since(cut).Seconds(), Unit: "s"})
	unreachable(t, ns, "counter")
	counted := ns.acknowledged(t, kit, pod)
	WaitFor(t, podTimeout, "the pod to go on while its node is cut off", func(context.Context) error {
		if now := ns.acknowledged(t, kit, pod); now <= counted {
			return fmt.Errorf("it counted to %d, as before", now)
		}
		return nil
	})

	mended := time.Now()
	kit.MendNode(t, node)
	Report(t, Figure{Name: "node connected to Ready", Got: time.Since(mended).Seconds(), Unit: "s"})
	ns.AwaitExec("counter")
	after := ns.AwaitPod("counter")
	if after.Status.ContainerStatuses[0].ContainerID != pod.Status.ContainerStatuses[0].ContainerID {
		t.Error("the container was started again: the node was more than cut off")
	}
}

// TestKitSites runs a pod on either site and cuts the link between them.
func TestKitSites(t *testing.T) {
	a, b := both(t)
	kitA, kitB := a.Kit(t), b.Kit(t)
	nsA, nsB := a.NewNamespace(t), b.NewNamespace(t)
	serverB := nsB.RunPod(Pod{Name: "server", Script: "mkdir /tmp/www; echo of b > /tmp/www/index.html; exec busybox httpd -f -p 8080 -h /tmp/www"})
	nsA.RunPod(Pod{Name: "client"})
	// Debian's static busybox has a wget that crashes.
	fetch := `printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 2 ` + serverB.Status.PodIP + " 8080 2>&1 | tail -n 1"
	awaitFetch := func(when string) {
		t.Helper()
		WaitFor(t, podTimeout, "site a to read from site b "+when, func(ctx context.Context) error {
			if got, err := nsA.Exec(ctx, nsA.Namespace, "client", "sh", "-c", fetch); err != nil || strings.TrimSpace(got) != "of b" {
				return fmt.Errorf("it reads %q (%v)", got, err)
			}
			return nil
		})
	}
	awaitFetch("before the link is cut") // the server may start later than its container
	kitA.CutLink(t, kitB)
	if got := nsA.Sh("client", fetch); got == "of b" {
		t.Errorf("site a reads %q from site b over a link that is cut", got)
	}
	if got := nsB.Sh("server", "echo reachable"); got != "reachable" {
		t.Errorf("a cut between sites keeps the host from site b: %q", got)
	}
	kitA.MendLink(t, kitB)
	awaitFetch("after the link was mended")
}
