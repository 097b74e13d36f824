//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// movable are the backing classes of the kit whose volumes two nodes can reach:
// one that Kubernetes attaches to a node at a time, and one that only
// Lockstep's lease keeps from being written by two.
var movable = []string{"backing-attachable", "backing-shared"}

// fenceTimeout is how long the pod of a volume whose node is lost may take on
// another one: Kubernetes removes the lost pods after 20 s to 40 s, a lease is
// taken over 40 s after it was last renewed, and the controller may have to
// start anew.
const fenceTimeout = 5 * time.Minute

// countScript writes a counter to the first sector of a device, and prints each
// value when it is durable.
const countScript = `i=0; while :; do i=$((i+1)); printf '%-512d' $i > /tmp/sector; dd if=/tmp/sector of=/dev/data bs=512 count=1 oflag=direct conv=notrunc,fsync 2>/tmp/dd || { echo failed; cat /tmp/dd; break; }; echo $i; done`

// readCount prints the counter.
const readCount = `dd if=/dev/data bs=512 count=1 iflag=direct 2>/dev/null | tr -d ' \0'`

func device(claim string) []Mount { return []Mount{{Claim: claim, Path: "/dev/data", Block: true}} }

// TestLockstepMoves moves a volume between nodes, there and back. A pod
// elsewhere waits until the first one is gone.
func TestLockstepMoves(t *testing.T) {
	t.Parallel()
	for _, over := range movable {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			over := backingClass(t, over)
			lockstepOn(t, env.A)
			nodes := env.A.Nodes(t, 2)
			ns := env.A.NewNamespace(t)
			ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: over})})
			mounts := []Mount{{Claim: "data", Path: "/data"}}
			ns.RunPod(Pod{Name: "user-0", Node: nodes[0], Mounts: mounts})
			ns.Sh("user-0", "echo x >> /data/f")
			for i := 1; i < 3; i++ {
				last, next := fmt.Sprintf("user-%d", i-1), fmt.Sprintf("user-%d", i)
				ns.CreatePod(Pod{Name: next, Node: nodes[i%2], Mounts: mounts})
				ns.AwaitEvent(next, "FailedAttachVolume")
				began := time.Now()
				ns.DeletePod(last)
				ns.AwaitPod(next)
				Report(t, Figure{Name: "pod deleted to the next one's on another node ready, journaled " + over, Got: time.Since(began).Seconds(), Unit: "s"})
				if got, want := ns.Sh(next, "echo x >> /data/f; wc -l < /data/f"), fmt.Sprint(i+1); got != want {
					t.Errorf("on %s the file has %s lines, want %s", nodes[i%2], got, want)
				}
				pod, err := ns.EnginePod(t.Context(), ns.VolumeID("data"))
				if err != nil || pod == nil || pod.Spec.NodeName != nodes[i%2] {
					t.Errorf("the engine's pod is %v (%v), want it on %s", pod, err, nodes[i%2])
				}
			}
		})
	}
}

// TestLockstepLostNode stops a node under a volume in use. Another node gets
// the volume when the node is declared out of service, and not before, with
// everything that had been durable. One of the two nodes has the controller.
func TestLockstepLostNode(t *testing.T) {
	for i, over := range movable {
		t.Run(over, func(t *testing.T) {
			over := backingClass(t, over)
			lockstepOn(t, env.A)
			kit := env.A.Kit(t)
			with, without := controllerNode(t)
			lost, other := without, with
			if i == 1 {
				lost, other = with, without
			}
			ns := env.A.NewNamespace(t)
			ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: over}), Block: true})
			ns.RunPod(Pod{Name: "first", Node: lost, Mounts: device("data")})
			acked := ns.follow("first")
			WaitFor(t, podTimeout, "50 durable writes", func(context.Context) error {
				if n := acked.Load(); n < 50 {
					return fmt.Errorf("there are %d", n)
				}
				return nil
			})
			kit.StopNode(t, lost)
			if err := env.A.AwaitNode(t.Context(), lost, false); err != nil {
				t.Fatal(err)
			}
			durable := acked.Load()
			ns.ForgetPod("first")
			ns.CreatePod(Pod{Name: "second", Node: other, Mounts: device("data")})
			ns.AwaitEvent("second", "FailedAttachVolume")
			if pod, err := ns.EnginePod(t.Context(), ns.VolumeID("data")); err != nil || pod == nil || pod.Spec.NodeName != lost {
				t.Errorf("the engine's pod is %v (%v), want the one on the node that is gone", pod, err)
			}
			began := time.Now()
			env.A.MarkOutOfService(t, lost)
			ns.AwaitPodWithin("second", fenceTimeout)
			Report(t, Figure{Name: "node out of service to pod on another ready, journaled " + over, Got: time.Since(began).Seconds(), Unit: "s"})
			ns.checkCount("second", durable)
			env.A.MarkInService(t, lost)
			kit.StartNode(t, lost)
		})
	}
}

// controllerNode returns the node that the controller runs on, and another. A test
// before may have moved it.
func controllerNode(t *testing.T) (with, without string) {
	t.Helper()
	WaitFor(t, podTimeout, "the controller to be ready", func(ctx context.Context) error {
		pod, err := env.A.Client.CoreV1().Pods(SystemNamespace).Get(ctx, release+"-controller-0", metav1.GetOptions{})
		if err != nil {
			return err
		}
		with = pod.Spec.NodeName
		return podReady(pod)
	})
	for _, node := range env.A.Nodes(t, 2) {
		if node != with {
			without = node
		}
	}
	return with, without
}

// follow runs countScript in a pod and returns the last count that it is known
// to have made durable.
func (n *Namespace) follow(pod string) *atomic.Int64 {
	n.t.Helper()
	var acked atomic.Int64
	reader, writer := io.Pipe()
	go func() {
		err := n.Stream(n.t.Context(), n.Namespace, pod, Streams{Out: writer}, "sh", "-c", countScript)
		writer.CloseWithError(err) // it ends with the node, or the test
	}()
	go func() {
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				acked.Store(n)
			}
		}
	}()
	return &acked
}

// checkCount checks that the counter of a pod's volume is not older than the
// last value known to be durable, and returns it.
func (n *Namespace) checkCount(pod string, durable int64) int64 {
	n.t.Helper()
	text := n.Sh(pod, readCount)
	got, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		n.t.Fatalf("the counter is %q: %v", text, err)
	}
	n.t.Logf("the volume holds count %d, and %d was durable", got, durable)
	if got < durable {
		n.t.Errorf("the volume holds count %d, but %d had been durable", got, durable)
	}
	return got
}

// TestLockstepCutNode cuts a node off from the network while a pod there
// writes. Its engine goes on as long as it may. Once another one was allowed to,
// not one write more is acknowledged there. All nodes of the kit have one
// kernel, and the lock that the cut off engine has on its store keeps the next
// one from opening it; so that is seen only when the node is back. Then who used the
// volume there gets errors, and everything of it goes, while it is written elsewhere.
func TestLockstepCutNode(t *testing.T) {
	over := backingClass(t, "backing-shared")
	lockstepOn(t, env.A)
	kit := env.A.Kit(t)
	other, cut := controllerNode(t)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: over})
	ns.CreateClaim(Claim{Name: "data", Class: class, Block: true})
	ns.CreateClaim(Claim{Name: "files", Class: class})
	mounts := append(device("data"), Mount{Claim: "files", Path: "/files"})
	first := ns.RunPod(Pod{Name: "first", Node: cut, Mounts: mounts, Script: countScript + "; " + idle})
	ns.Sh("first", "echo kept > /files/f; sync /files/f")
	volume := ns.VolumeID("data")
	if on := ns.logOf(t, kit, first, false); !strings.Contains(on, " 1\n") {
		t.Fatalf("the counter's log starts with %.200q", on)
	}
	stale, err := ns.EnginePod(t.Context(), volume)
	if err != nil || stale == nil {
		t.Fatalf("engine of volume %s: %v", volume, err)
	}
	kit.awaitAttested(t, cut, volume)
	kit.CutNode(t, cut)
	if err := env.A.AwaitNode(t.Context(), cut, false); err != nil {
		t.Fatal(err)
	}
	ns.ForgetPod("first")
	ns.CreatePod(Pod{Name: "second", Node: other, Mounts: mounts})
	began := time.Now()
	env.A.MarkOutOfService(t, cut)
	WaitFor(t, fenceTimeout, "an engine on "+other, func(ctx context.Context) error {
		pod, err := ns.EnginePod(ctx, volume)
		if err == nil && (pod == nil || pod.Spec.NodeName != other) {
			err = fmt.Errorf("the engine's pod is %v", pod)
		}
		return err
	})
	Report(t, Figure{Name: "node that is cut off out of service to engine on another, journaled " + over, Got: time.Since(began).Seconds(), Unit: "s"})
	allowed := ns.acknowledged(t, kit, first)
	WaitFor(t, podTimeout, "that engine to have tried", func(ctx context.Context) error {
		pod, err := ns.EnginePod(ctx, volume)
		if err == nil && (pod == nil || pod.UID == stale.UID || !containerStarted(pod)) {
			err = fmt.Errorf("the engine's pod is %v", pod)
		}
		return err
	})
	final := ns.acknowledged(t, kit, first)
	if final != allowed {
		t.Errorf("the node that was cut off acknowledged %d when another engine was allowed to write, and %d later", allowed, final)
	}
	env.A.MarkInService(t, cut)
	left := kit.leaveDevice(t, cut, volume)
	back := time.Now()
	kit.MendNode(t, cut)
	ns.AwaitPodWithin("second", fenceTimeout)
	if got := ns.checkCount("second", final); got > final+1 {
		t.Errorf("the volume holds count %d, and its writer was answered up to %d only", got, final)
	}
	if got := ns.Sh("second", "cat /files/f"); got != "kept" {
		t.Errorf("the volume with files holds %q", got)
	}
	acked := ns.follow("second")
	left.check(t, back, first, over)
	at := acked.Load()
	WaitFor(t, podTimeout, "writes on "+other+" after that", func(context.Context) error {
		if n := acked.Load(); n < at+10 {
			return fmt.Errorf("there are %d, and were %d", n, at)
		}
		return nil
	})
	ns.checkCount("second", acked.Load())
}

// containerStarted reports whether a pod's one container answers its probe.
func containerStarted(pod *corev1.Pod) bool {
	statuses := pod.Status.ContainerStatuses
	return len(statuses) == 1 && statuses[0].Started != nil && *statuses[0].Started
}

// acknowledged is the last count that a pod of countScript was answered.
func (n *Namespace) acknowledged(t *testing.T, kit *Kit, pod *corev1.Pod) int64 {
	t.Helper()
	count, err := lastCount(n.logOf(t, kit, pod, true))
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// logOf is what a pod's container printed, read on its node's disk, so that a
// node that is cut off can be asked. tail: the end only.
func (n *Namespace) logOf(t *testing.T, kit *Kit, pod *corev1.Pod, tail bool) string {
	t.Helper()
	dir := filepath.Join("/var/log/pods", fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID), "main")
	command := "head -n 20"
	if tail {
		command = "tail -n 20"
	}
	number, _ := strings.CutPrefix(pod.Spec.NodeName, fmt.Sprintf("site%d-node", kit.Site))
	var out string
	WaitFor(t, podTimeout, "log of pod "+pod.Name, func(ctx context.Context) error {
		var err error
		out, err = kit.run(ctx, "node", "exec", "--site", strconv.Itoa(kit.Site), "--node", number, "--", "sh", "-c", command+" "+dir+"/0.log")
		if err == nil && out == "" {
			err = fmt.Errorf("it is empty")
		}
		return err
	})
	return out
}

// lastCount is the last number in a container's log, whose lines begin with a
// time and the stream's name.
func lastCount(log string) (int64, error) {
	last := int64(-1)
	for line := range strings.Lines(log) {
		words := strings.Fields(line)
		if len(words) != 4 {
			continue
		}
		if n, err := strconv.ParseInt(words[3], 10, 64); err == nil {
			last = n
		}
	}
	if last < 0 {
		return 0, fmt.Errorf("there is no count in %q", log)
	}
	return last, nil
}

// TestLockstepDrain drains a node under a volume in use, as kubectl does: its
// user goes first, and the engine, which may not be evicted before, follows.
func TestLockstepDrain(t *testing.T) {
	over := backingClass(t, "backing-shared")
	lockstepOn(t, env.A)
	other, drained := controllerNode(t)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: over})})
	mounts := []Mount{{Claim: "data", Path: "/data"}}
	ns.RunPod(Pod{Name: "first", Node: drained, Mounts: mounts})
	ns.Sh("first", "echo kept > /data/f; sync /data/f")
	ns.cordon(drained, true)
	t.Cleanup(func() { ns.cordon(drained, false) })
	began := time.Now()
	WaitFor(t, fenceTimeout, "node "+drained+" to be drained", func(ctx context.Context) error { return ns.evictAll(ctx, drained) })
	Report(t, Figure{Name: "node with a volume in use drained", Got: time.Since(began).Seconds(), Unit: "s"})
	ns.RunPod(Pod{Name: "second", Node: other, Mounts: mounts})
	if got := ns.Sh("second", "cat /data/f"); got != "kept" {
		t.Errorf("the second pod reads %q", got)
	}
}

func (n *Namespace) cordon(node string, off bool) {
	n.t.Helper()
	patch := fmt.Sprintf(`{"spec": {"unschedulable": %t}}`, off)
	if _, err := n.Client.CoreV1().Nodes().Patch(context.Background(), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		n.t.Errorf("set whether node %s takes pods: %v", node, err)
	}
}

// evictAll asks for the eviction of what runs on a node, but pods of
// DaemonSets, and returns an error as long as there is any.
func (c *Cluster) evictAll(ctx context.Context, node string) error {
	list, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range list.Items {
		if owner := metav1.GetControllerOf(&pod); owner != nil && owner.Kind == "DaemonSet" {
			continue
		}
		err := c.Client.CoreV1().Pods(pod.Namespace).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}})
		errs = append(errs, fmt.Errorf("pod %s/%s is there (evict: %v)", pod.Namespace, pod.Name, err))
	}
	return errors.Join(errs...)
}
