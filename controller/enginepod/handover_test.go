package enginepod_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/enginepod"
	"github.com/lockstep-csi/lockstep/controller/kubewait"
	"github.com/lockstep-csi/lockstep/internal/apitest"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

const otherName = "engine-" + volume + "-b"

// serve has an engine run and returns its pod.
func (r *rig) served(s enginepod.Spec) *corev1.Pod {
	r.t.Helper()
	_, err := r.engines.Run(r.ctx(), s)
	r.check(err)
	return r.only(isRunning)
}

func argument(pod *corev1.Pod, flag string) string {
	for _, arg := range pod.Spec.Containers[0].Args {
		if value, found := strings.CutPrefix(arg, flag+"="); found {
			return value
		}
	}
	return ""
}

func TestAnEngineIsHandedOverOnItsNode(t *testing.T) {
	r := newRig(t)
	r.kubelet()
	s := spec("")
	s.Node, s.Lease = r.node("n1"), true
	first := r.served(s)
	s.Node = "" // wherever it is
	names := []string{first.Name}
	for range 2 {
		before := r.only(isRunning)
		r.check(r.engines.HandOver(r.ctx(), s))
		at, err := r.engines.Run(r.ctx(), s)
		r.check(err)
		after := r.only(func(p *corev1.Pod) bool { return p.UID != before.UID })
		if at.Address != after.Status.PodIP+":7443" || at.Node != r.node("n1") || at.Template == "" {
			t.Errorf("after the handover Run returns %+v, want pod %s", at, after.Name)
		}
		if got := argument(after, "--lease-id"); got != string(first.UID) {
			t.Errorf("the successor holds the lease as %q, want as the one before, %s", got, first.UID)
		}
		names = append(names, after.Name)
	}
	if !slices.Equal(names, []string{enginepod.Name(volume), otherName, enginepod.Name(volume)}) {
		t.Errorf("names %v", names)
	}
	if argument(first, "--lease-id") != "" || argument(first, "--handover-wait") == "" {
		t.Errorf("arguments %q", first.Spec.Containers[0].Args)
	}
}

// The controller dies at its k-th write of a handover, before or after it was
// carried out, for every k. The next one goes on from there: there is never a
// moment without an engine that runs, and in the end there is exactly one.
func TestAHandoverSurvivesTheControllerAtEveryWrite(t *testing.T) {
	for _, kind := range []apitest.Kind{apitest.Unsent, apitest.Unanswered} {
		t.Run(kind.String(), func(t *testing.T) {
			for k := 1; ; k++ {
				if !diesInHandover(t, k, kind) {
					if k == 1 {
						t.Error("a handover writes nothing: nothing was tested")
					}
					return
				}
			}
		})
	}
}

// diesInHandover reports whether the handover got as far as its k-th write.
func diesInHandover(t *testing.T, k int, kind apitest.Kind) bool {
	r := newRig(t)
	kubelet := r.kubelet()
	defer kubelet.stop()
	s := spec(r.node("n1"))
	before := r.served(s)
	client, fault, err := r.server.Fault()
	r.check(err)
	dying, err := enginepod.New(enginepod.Config{Client: client, Namespace: r.ns, Site: "a", Template: r.file, Port: 7443, Clock: r.clock})
	r.check(err)
	fault.BreakWrite(k, kind, k+1)
	err = dying.HandOver(r.ctx(), s)
	reached := fault.Count() >= k
	if err != nil && !reached {
		t.Fatalf("write %d: %v", k, err)
	}
	_, err = r.engines.Run(r.ctx(), s)
	r.check(err)
	r.check(r.engines.HandOver(r.ctx(), s))
	at, err := r.engines.Run(r.ctx(), s)
	r.check(err)
	after := r.only(isRunning)
	if after.UID == before.UID || at.Address != after.Status.PodIP+":7443" {
		t.Errorf("write %d %s: pod %s at %s is left, Run says %s", k, kind, after.Name, after.Status.PodIP, at.Address)
	}
	return reached
}

// An image that cannot be pulled, say: the engine goes on, and what was made for
// nothing goes.
func TestASuccessorThatDoesNotRunChangesNothing(t *testing.T) {
	r := newRig(t)
	k := r.kubelet()
	s := spec(r.node("n1"))
	before := r.served(s)
	k.set(k.broken, otherName, true)
	ctx, cancel := context.WithCancel(r.ctx())
	failed := make(chan error, 1)
	go func() { failed <- r.engines.HandOver(ctx, s) }()
	r.named(t, otherName, exists)
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	at, err := r.engines.Run(r.ctx(), s)
	r.check(err)
	after := r.only(isRunning)
	if after.UID != before.UID || at.Address != before.Status.PodIP+":7443" {
		t.Errorf("pod %s is left, at %+v", after.Name, at)
	}
}

// Who deletes an engine's pod gets a successor made at once, not when it is gone.
func TestADeletedEngineIsFollowedAtOnce(t *testing.T) {
	r := newRig(t)
	k := r.kubelet()
	s := spec(r.node("n1"))
	before := r.served(s)
	k.set(k.kept, before.Name, true)
	r.check(r.client.CoreV1().Pods(r.ns).Delete(r.ctx(), before.Name, metav1.DeleteOptions{}))
	at, err := r.engines.Run(r.ctx(), s)
	r.check(err)
	next := r.named(t, otherName, isRunning)
	if at.Address != next.Status.PodIP+":7443" || next.Annotations["lockstep.dev/succeeds"] != string(before.UID) {
		t.Errorf("Run returns %+v, want pod %s, which has %v", at, next.Name, next.Annotations)
	}
	r.check(r.engines.HandOver(r.ctx(), s)) // which it is already
	k.set(k.kept, before.Name, false)
	if after := r.only(exists); after.UID != next.UID {
		t.Errorf("pod %s is left", after.Name)
	}
}

func TestAClaimForOnePodIsNotShared(t *testing.T) {
	r := newRigOn(t, corev1.ReadWriteOncePod)
	k := r.kubelet()
	k.alone = true
	s := spec(r.node("n1"))
	before := r.served(s)
	if got := argument(before, "--handover-wait"); got != "" {
		t.Errorf("it is to wait %s for a successor that cannot come", got)
	}
	k.set(k.kept, before.Name, true)
	handed := make(chan error, 1)
	go func() { handed <- r.engines.HandOver(r.ctx(), s) }()
	r.named(t, before.Name, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if _, err := r.client.CoreV1().Pods(r.ns).Get(r.ctx(), otherName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a second pod for a claim of one: %v", err)
	}
	k.set(k.kept, before.Name, false)
	r.check(<-handed)
	if after := r.served(s); after.UID == before.UID {
		t.Error("the engine is the old one")
	}
}

func TestStopEndsTheSuccessorFirst(t *testing.T) {
	r := newRig(t)
	k := r.kubelet()
	k.alone = true
	s := spec(r.node("n1"))
	before := r.served(s)
	k.set(k.kept, before.Name, true)
	k.set(k.kept, otherName, true)
	r.check(r.client.CoreV1().Pods(r.ns).Delete(r.ctx(), before.Name, metav1.DeleteOptions{}))
	_, err := r.engines.Run(r.ctx(), s)
	r.check(err)
	r.expectStopWaits(otherName)
	r.named(t, otherName, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	k.set(k.kept, otherName, false)
	r.only(func(p *corev1.Pod) bool { return p.UID == before.UID })
	r.expectStopWaits(before.Name)
	k.set(k.kept, before.Name, false)
	r.check(r.engines.Stop(r.ctx(), volume))
}

// A successor that a controller which is being killed makes, while the next one
// stops the engine, is stopped too: the volume would stay attached for it.
func TestStopEndsASuccessorThatComesLate(t *testing.T) {
	r := newRig(t)
	k := r.kubelet()
	k.alone = true
	s := spec(r.node("n1"))
	before := r.served(s)
	detach := r.attach(r.node("n1"))
	k.set(k.kept, before.Name, true)
	stopped := make(chan error, 1)
	go func() { stopped <- r.engines.Stop(r.ctx(), volume) }()
	r.named(t, before.Name, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	_, err := r.engines.Run(r.ctx(), s) // what the other controller does for an engine that ends
	r.check(err)
	r.named(t, otherName, isRunning)
	k.set(k.kept, before.Name, false)
	err = kubewait.Until(r.ctx(), func(ctx context.Context) (bool, error) {
		list, err := r.client.CoreV1().Pods(r.ns).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	}, kubewait.Selected(r.client.CoreV1().Pods(r.ns), ""))
	if err != nil {
		t.Fatalf("wait for the successor to be stopped: %v", err)
	}
	detach()
	r.check(<-stopped)
}

func TestUpgradeTellsTheClaimAndHeedsItsPod(t *testing.T) {
	r := newRig(t)
	r.kubelet()
	claims := r.client.CoreV1().PersistentVolumeClaims(r.ns)
	claim, err := claims.Get(r.ctx(), kubenames.BackingClaim(volume), metav1.GetOptions{})
	r.check(err) // any claim will do for a user's
	s := spec(r.node("n1"))
	s.Claim = r.ns + "/" + claim.Name
	before := r.served(s)
	at, err := r.engines.Run(r.ctx(), s)
	r.check(err)
	if now, manual, err := r.engines.Template(); err != nil || manual || now != at.Template {
		t.Errorf("template %q, manual %t, %v, the engine's is %q", now, manual, err, at.Template)
	}
	r.template(strings.Replace(template, "lockstep:test", "lockstep:next", 1))
	now, _, err := r.engines.Template()
	if err != nil || now == at.Template {
		t.Errorf("another image is the same template %q, %v", now, err)
	}
	hold := func(value string) {
		_, err := r.client.CoreV1().Pods(r.ns).Patch(r.ctx(), before.Name, "application/merge-patch+json",
			fmt.Appendf(nil, `{"metadata": {"annotations": {"lockstep.dev/upgrade": %q}}}`, value), metav1.PatchOptions{})
		r.check(err)
	}
	hold("Manual")
	if err := r.engines.Upgrade(r.ctx(), s); !errors.Is(err, enginepod.ErrHeld) {
		t.Errorf("upgrade of an engine that is held: %v", err)
	}
	hold("Automatic")
	r.check(r.engines.Upgrade(r.ctx(), s))
	if at, err = r.engines.Run(r.ctx(), s); err != nil || at.Template != now {
		t.Errorf("after the upgrade: %+v, %v, want %q", at, err, now)
	}
	if after := r.only(isRunning); after.Spec.Containers[0].Image != "lockstep:next" {
		t.Errorf("image %s", after.Spec.Containers[0].Image)
	}
	events, err := r.client.CoreV1().Events(r.ns).List(r.ctx(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(claim.UID)})
	if err != nil || len(events.Items) != 1 || events.Items[0].Reason != "EngineUpgraded" {
		t.Errorf("events of the claim: %+v, %v", events, err)
	}
	r.template("metadata: {annotations: {lockstep.dev/upgrade: Manual}}\n" + strings.Replace(template, "metadata: {name: engine}\n", "", 1))
	if _, manual, err := r.engines.Template(); err != nil || !manual {
		t.Errorf("manual %t, %v", manual, err)
	}
}
