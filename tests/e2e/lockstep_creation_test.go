//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// claimAnnotation says which claim a backing claim is for.
const claimAnnotation = "lockstep.dev/claim"

// reached tells how far a volume that is being made has come, from its backing
// claim and its engine's pod, which are nil until they are there.
type reached func(backing *corev1.PersistentVolumeClaim, engine *corev1.Pod) bool

func askedFor(*corev1.PersistentVolumeClaim, *corev1.Pod) bool { return true }

func backingMade(backing *corev1.PersistentVolumeClaim, _ *corev1.Pod) bool { return backing != nil }

func backingBound(backing *corev1.PersistentVolumeClaim, _ *corev1.Pod) bool {
	return backing != nil && backing.Status.Phase == corev1.ClaimBound
}

// filling: a volume that is made from another one has its engine copy that.
func filling(_ *corev1.PersistentVolumeClaim, engine *corev1.Pod) bool { return engine != nil }

// creationSteps are what can be seen of a volume that is being made, in this
// order.
var creationSteps = []struct {
	name string
	from string // the claim that it is made from; empty: from none
	reached
}{
	{"asked for", "", askedFor}, {"backing claim made", "", backingMade}, {"backing volume bound", "", backingBound}, {"being filled", "source", filling},
}

// TestLockstepControllerKilledInCreation kills the controller at each step of
// making volumes. A claim that stays gets its volume, and not two; one that is
// deleted at that moment leaves nothing, although the provisioner, which is in
// the same pod, has forgotten it.
func TestLockstepControllerKilledInCreation(t *testing.T) {
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: env.BackingClasses[len(env.BackingClasses)-1], Immediate: true})
	ns.CreateClaim(Claim{Name: "source", Class: class})
	ns.RunPod(Pod{Name: "writer", Mounts: []Mount{{Claim: "source", Path: "/data"}}})
	ns.Sh("writer", "echo content > /data/f; sync /data/f")
	for i, step := range creationSteps {
		t.Run(step.name, func(t *testing.T) {
			ns := ns.For(t)
			kept, gone := fmt.Sprintf("kept-%d", i), fmt.Sprintf("gone-%d", i)
			claims := []string{kept, gone}
			if step.from != "" {
				claims = claims[:1] // a copy that nobody wants is a person's to remove
			}
			for _, name := range claims {
				ns.createFor(name, class, step.from)
			}
			for _, name := range claims {
				ns.awaitStep(name, step.name, step.reached)
			}
			if step.from == "" {
				ns.deleteClaim(gone)
			}
			now := int64(0)
			ns.replace(t, release+"-controller-0", metav1.DeleteOptions{GracePeriodSeconds: &now})
			ns.Volume(kept)
			ns.awaitNothingOf(gone)
			if backing, err := ns.backingFor(t.Context(), kept); err != nil || len(backing) != 1 {
				t.Errorf("the claim has %d backing claims (%v)", len(backing), err)
			}
		})
	}
	last := len(creationSteps) - 1
	mounts := []Mount{{Claim: fmt.Sprintf("kept-%d", last), Path: "/copy"}}
	for i := range last {
		mounts = append(mounts, Mount{Claim: fmt.Sprintf("kept-%d", i), Path: fmt.Sprintf("/%d", i)})
	}
	ns.RunPod(Pod{Name: "reader", Mounts: mounts})
	if got := ns.Sh("reader", "cat /copy/f; for i in 0 1 2; do echo $i > /$i/f; sync /$i/f; done; cat /[0-2]/f"); got != "content\n0\n1\n2" {
		t.Errorf("the volumes hold %q", got)
	}
}

// TestLockstepDeletedInCreation deletes claims at each step of making their
// volumes: nothing stays of them.
func TestLockstepDeletedInCreation(t *testing.T) {
	t.Parallel()
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: env.BackingClasses[len(env.BackingClasses)-1], Immediate: true})
	ns.CreateClaim(Claim{Name: "source", Class: class})
	ns.Volume("source")
	for i, step := range creationSteps {
		name := fmt.Sprintf("gone-%d", i)
		ns.createFor(name, class, step.from)
		ns.awaitStep(name, step.name, step.reached)
		ns.deleteClaim(name)
	}
	for i := range creationSteps {
		ns.awaitNothingOf(fmt.Sprintf("gone-%d", i))
	}
}

// createFor makes a claim from another one, or from none.
func (n *Namespace) createFor(name, class, from string) {
	n.t.Helper()
	claim := Claim{Name: name, Class: class}
	if from != "" {
		claim.From = fromClaim(from)
	}
	n.CreateClaim(claim)
}

// TestLockstepStorageFull makes a claim that the backing storage has no room
// for: the claim says so in the storage's own words, and nothing stays of it.
func TestLockstepStorageFull(t *testing.T) {
	t.Parallel()
	over := backingClass(t, "backing-attachable")
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	ns.CreateClaim(Claim{Name: "huge", Class: ns.Class(Class{Over: over}), Size: "2Ti"})
	ns.CreatePod(Pod{Name: "user", Mounts: []Mount{{Claim: "huge", Path: "/data"}}})
	ns.AwaitEvent("huge", "ProvisioningFailed", "ResourceExhausted", "are left")
	ns.DeletePod("user")
	ns.deleteClaim("huge")
	ns.awaitNothingOf("huge")
}

// awaitStep waits until the volume for a claim is as far as a step.
func (n *Namespace) awaitStep(claim, step string, is reached) {
	n.t.Helper()
	WaitFor(n.t, volumeTimeout, "the volume for claim "+claim+" to be: "+step, func(ctx context.Context) error {
		all, err := n.backingFor(ctx, claim)
		if err != nil {
			return err
		}
		var backing *corev1.PersistentVolumeClaim
		var engine *corev1.Pod
		if len(all) > 0 {
			backing = &all[0]
			if engine, err = n.EnginePod(ctx, backing.Labels[volumeLabel]); err != nil {
				return err
			}
		}
		if !is(backing, engine) {
			return fmt.Errorf("there is a backing claim: %t; an engine: %t", backing != nil, engine != nil)
		}
		return nil
	})
}

// backingFor returns the backing claims of the volumes for a claim.
func (n *Namespace) backingFor(ctx context.Context, claim string) ([]corev1.PersistentVolumeClaim, error) {
	list, err := n.Client.CoreV1().PersistentVolumeClaims(SystemNamespace).List(ctx, metav1.ListOptions{LabelSelector: volumeLabel})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(c corev1.PersistentVolumeClaim) bool {
		return c.Annotations[claimAnnotation] != n.Namespace+"/"+claim
	}), nil
}

// deleteClaim deletes a claim and does not wait for it.
func (n *Namespace) deleteClaim(name string) {
	n.t.Helper()
	if err := n.Client.CoreV1().PersistentVolumeClaims(n.Namespace).Delete(n.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		n.t.Fatalf("delete claim %s: %v", name, err)
	}
}

// awaitNothingOf waits until nothing is left of a claim that was deleted: no
// volume that the controller knows, no backing claim or volume, no
// PersistentVolume.
func (n *Namespace) awaitNothingOf(claim string) {
	n.t.Helper()
	admin := n.Admin(n.t)
	WaitFor(n.t, volumeTimeout, "everything of claim "+claim+" to go", func(ctx context.Context) error {
		status, err := admin.GetStatus(ctx, &adminv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		backing, err := n.backingFor(ctx, claim)
		errs := []error{err, n.volumesOf(ctx, claim)}
		for _, v := range status.GetVolumes() {
			if v.GetClaim() == n.Namespace+"/"+claim {
				errs = append(errs, fmt.Errorf("the controller knows volume %s", v.GetId()))
			}
		}
		for _, b := range backing {
			errs = append(errs, n.objectsOf(ctx, b.Labels[volumeLabel]))
		}
		return errors.Join(errs...)
	})
}

// volumesOf names the PersistentVolumes that were made for a claim.
func (n *Namespace) volumesOf(ctx context.Context, claim string) error {
	list, err := n.Client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range list.Items {
		if ref := v.Spec.ClaimRef; ref != nil && ref.Namespace == n.Namespace && ref.Name == claim {
			errs = append(errs, fmt.Errorf("volume %s is %s: %s", v.Name, v.Status.Phase, v.Status.Message))
		}
	}
	return errors.Join(errs...)
}
