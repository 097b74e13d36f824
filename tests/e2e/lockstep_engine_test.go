//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	killPause     = 5 * time.Second        // at most, when an engine is killed
	handoverPause = 500 * time.Millisecond // at most, when one is replaced on purpose
	// quietPause is what a write may take on a machine that does other things
	// as well; who exceeds it waited for something that was away.
	quietPause = time.Second
)

// TestLockstepUnderFire kills and replaces each role while fio writes to a
// volume and reads everything back: there is no error, and I/O pauses no longer
// than it may.
func TestLockstepUnderFire(t *testing.T) {
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: env.BackingClasses[0]}), Block: true})
	node := ns.RunPod(Pod{Name: "first", Mounts: []Mount{{Claim: "data", Path: "/dev/data", Block: true}}}).Spec.NodeName
	volume := ns.VolumeID("data")
	ns.RunPod(Pod{Name: "killer", Node: node, Privileged: true, HostPID: true})
	ns.DeletePod("first")
	now := int64(0)
	var last *FioRun
	for i, event := range []struct {
		name   string
		anew   bool // in a new pod, which the plugin of the event before gives the device
		target time.Duration
		most   time.Duration // fails the test
		do     func(t *testing.T)
	}{
		{"nothing", true, 0, killPause, func(*testing.T) {}},
		{"engine killed", false, killPause, 3 * killPause, func(t *testing.T) { ns.killEngine(t, volume) }},
		// The kubelet waits before it starts a container again that ends often.
		{"engine killed again", false, killPause, 3 * killPause, func(t *testing.T) { ns.killEngine(t, volume) }},
		{"engine handed over", false, handoverPause, killPause, func(t *testing.T) { ns.replaceEngine(t, volume, metav1.DeleteOptions{}) }},
		{"engine handed over again", true, handoverPause, killPause, func(t *testing.T) { ns.replaceEngine(t, volume, metav1.DeleteOptions{}) }},
		{"engine deleted by force", false, killPause, 3 * killPause, func(t *testing.T) {
			ns.replaceEngine(t, volume, metav1.DeleteOptions{GracePeriodSeconds: &now})
		}},
		{"node plugin killed", true, quietPause, killPause, func(t *testing.T) { ns.killProcess("[-]-holder-socket=.* --devices-dir=") }},
		{"node plugin replaced", true, quietPause, killPause, func(t *testing.T) { ns.replacePlugin(t, node) }},
		{"controller killed", true, quietPause, killPause, func(t *testing.T) {
			ns.replace(t, release+"-controller-0", metav1.DeleteOptions{GracePeriodSeconds: &now})
		}},
	} {
		t.Run(event.name, func(t *testing.T) {
			ns := ns.For(t)
			var run *FioRun
			if event.anew || last == nil {
				if last != nil {
					ns.DeletePod(last.pod)
				}
				run = ns.StartFio(Fio{Name: fmt.Sprintf("fio-%d", i), Claim: "data", Block: true, Node: node})
			} else {
				run = last.For(t)
				run.Again()
			}
			last = run
			run.AwaitWrites(1000)
			event.do(t)
			run.AwaitMore(1500)
			result := run.Stop()
			Report(t, Figure{Name: "longest write, " + event.name, Got: result.LongestWrite.Seconds(), Target: event.target.Seconds(), Unit: "s"})
			if result.LongestWrite > event.most {
				t.Errorf("a write took %s, and must not take more than %s", result.LongestWrite, event.most)
			}
		})
	}
	if last != nil {
		ns.DeletePod(last.pod)
	}
}

// killEngine kills a volume's engine and waits until another process of it is
// there.
func (n *Namespace) killEngine(t *testing.T, volume string) {
	t.Helper()
	process := func(pod *corev1.Pod) string {
		if len(pod.Status.ContainerStatuses) != 1 || pod.Status.ContainerStatuses[0].State.Running == nil {
			return ""
		}
		return pod.Status.ContainerStatuses[0].ContainerID
	}
	before, err := n.EnginePod(t.Context(), volume)
	if err != nil || before == nil || process(before) == "" {
		t.Fatalf("engine of volume %s: %v, %v", volume, before, err)
	}
	n.killProcess("[-]-volume=" + volume)
	n.awaitEngine(t, volume, func(pod *corev1.Pod) error {
		if now := process(pod); now == "" || now == process(before) {
			return errors.New("the one that was killed has no successor")
		}
		return nil
	})
}

// killProcess kills, on the pod killer's node, the one process whose command
// line matches a pattern that does not match itself.
func (n *Namespace) killProcess(pattern string) {
	n.t.Helper()
	got := n.Sh("killer", fmt.Sprintf(`for p in /proc/[0-9]*; do if tr '\0' ' ' < $p/cmdline 2>/dev/null | grep -qe '%s'; then kill -9 ${p#/proc/} && echo killed; fi; done`, pattern))
	if got != "killed" {
		n.t.Fatalf("kill the process that matches %q: %q", pattern, got)
	}
}

// replace deletes a pod of Lockstep and waits until its successor is ready.
func (n *Namespace) replace(t *testing.T, name string, how metav1.DeleteOptions) {
	t.Helper()
	pods := n.Client.CoreV1().Pods(SystemNamespace)
	before, err := pods.Get(t.Context(), name, metav1.GetOptions{})
	if err == nil {
		err = pods.Delete(t.Context(), name, how)
	}
	if err != nil {
		t.Fatalf("delete pod %s: %v", name, err)
	}
	began := time.Now()
	WaitFor(t, podTimeout, "another pod "+name+" to be ready", func(ctx context.Context) error {
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.UID == before.UID {
			return errors.New("the old one is there")
		}
		return podReady(pod)
	})
	t.Logf("another pod %s was ready after %s", name, time.Since(began))
}

// replaceEngine deletes the pod of a volume's engine and waits until its
// successor, on the same node, is ready and alone.
func (n *Namespace) replaceEngine(t *testing.T, volume string, how metav1.DeleteOptions) {
	t.Helper()
	before, err := n.EnginePod(t.Context(), volume)
	if err == nil && before == nil {
		err = errors.New("there is none")
	}
	if err == nil {
		err = n.Client.CoreV1().Pods(SystemNamespace).Delete(t.Context(), before.Name, how)
	}
	if err != nil {
		t.Fatalf("delete the engine pod of volume %s: %v", volume, err)
	}
	began := time.Now()
	n.awaitEngine(t, volume, func(pod *corev1.Pod) error {
		if pod.UID == before.UID {
			return errors.New("the old one is there")
		}
		return nil
	})
	t.Logf("another pod was ready after %s", time.Since(began))
}

// awaitEngine waits until a volume's engine is as wanted, and ready.
func (n *Namespace) awaitEngine(t *testing.T, volume string, wanted func(*corev1.Pod) error) {
	t.Helper()
	WaitFor(t, podTimeout, "another engine of volume "+volume+" to be ready", func(ctx context.Context) error {
		pod, err := n.EnginePod(ctx, volume)
		if err == nil && pod == nil {
			err = errors.New("there is none")
		}
		if err == nil {
			err = wanted(pod)
		}
		if err != nil {
			return err
		}
		return podReady(pod)
	})
}

// replacePlugin deletes a node's plugin and waits until the next one is ready.
func (n *Namespace) replacePlugin(t *testing.T, node string) {
	t.Helper()
	plugins, err := n.nodePlugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := plugins[node]
	if err := n.Client.CoreV1().Pods(SystemNamespace).Delete(t.Context(), before.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	WaitFor(t, podTimeout, "another node plugin on "+node, func(ctx context.Context) error {
		plugins, err := n.nodePlugins(ctx)
		if err != nil {
			return err
		}
		pod, found := plugins[node]
		if !found || pod.UID == before.UID {
			return errors.New("there is none")
		}
		return podReady(&pod)
	})
}

// TestLockstepEviction checks that the engine of a volume in use cannot be
// evicted, and that an engine has no more memory than it may while idle.
func TestLockstepEviction(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "data", Class: ns.Class(Class{Over: env.BackingClasses[0]})})
	ns.RunPod(Pod{Name: "user", Mounts: []Mount{{Claim: "data", Path: "/data"}}})
	volume := ns.VolumeID("data")
	pod, err := ns.EnginePod(t.Context(), volume)
	if err != nil || pod == nil {
		t.Fatalf("engine of volume %s: %v", volume, err)
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: SystemNamespace}}
	WaitFor(t, podTimeout, "the disruption budget to be known", func(ctx context.Context) error {
		budget, err := ns.Client.PolicyV1().PodDisruptionBudgets(SystemNamespace).Get(ctx, "engine-"+volume, metav1.GetOptions{})
		if err == nil && budget.Status.CurrentHealthy != 1 {
			err = fmt.Errorf("it counts %d", budget.Status.CurrentHealthy)
		}
		return err
	})
	if err := ns.Client.CoreV1().Pods(SystemNamespace).EvictV1(t.Context(), eviction); !apierrors.IsTooManyRequests(err) {
		t.Errorf("evict the engine of a volume in use: %v", err)
	}
	Report(t, Figure{Name: "memory of an idle engine", Got: ns.memory(t, pod, "engine"), Target: 40, Unit: "MiB"})
	controller, err := ns.Client.CoreV1().Pods(SystemNamespace).Get(t.Context(), release+"-controller-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	Report(t, Figure{Name: "memory of the controller, few volumes", Got: ns.memory(t, controller, "controller"), Target: 128, Unit: "MiB"})
}

// memory is what Lockstep's process in a container has in memory, in MiB. Where
// the containers of a pod share their processes it is not the first one.
func (n *Namespace) memory(t *testing.T, pod *corev1.Pod, container string) float64 {
	t.Helper()
	out, err := n.ExecIn(t.Context(), SystemNamespace, pod.Name, container, "sh", "-c",
		`for p in /proc/[0-9]*; do case $(cat $p/comm) in lockstep*) sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB$/\1/p' $p/status ;; esac; done`)
	if err != nil {
		t.Fatal(err)
	}
	var kib float64
	if _, err := fmt.Sscan(out, &kib); err != nil {
		t.Fatalf("resident memory %q: %v", out, err)
	}
	return kib / 1024
}
