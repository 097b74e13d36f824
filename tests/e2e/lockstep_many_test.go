//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// manyVolumes is how many the controller's memory is measured with.
	manyVolumes = 100
	// manyInUse of them have engines.
	manyInUse = 3
	// controllerMemory is what it may have with them, in MiB.
	controllerMemory = 128
	// manyTimeout covers making, or removing, all of them on a busy machine.
	manyTimeout = 8 * time.Minute
)

// TestLockstepManyVolumes measures the controller's memory with 100 volumes, each
// a group of its own. Three of them are in use; the others rest, as most volumes
// of a controller with a hundred engines would not.
func TestLockstepManyVolumes(t *testing.T) {
	over := backingClass(t, "backing-immediate")
	lockstepOn(t, env.A)
	ns := env.A.NewNamespace(t)
	class := ns.Class(Class{Over: over, Immediate: true})
	pods := ns.Client.CoreV1().Pods(SystemNamespace)
	controller := func() *corev1.Pod {
		pod, err := pods.Get(t.Context(), release+"-controller-0", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	first := controller()
	before := ns.memory(t, first, "controller")
	began := time.Now()
	for i := range manyVolumes {
		ns.CreateClaim(Claim{Name: fmt.Sprintf("data-%d", i), Class: class, Size: "64Mi"})
	}
	WaitFor(t, manyTimeout, fmt.Sprintf("%d claims to be bound", manyVolumes), func(ctx context.Context) error {
		list, err := ns.Client.CoreV1().PersistentVolumeClaims(ns.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		bound := 0
		for i := range list.Items {
			if list.Items[i].Status.Phase == corev1.ClaimBound {
				bound++
			}
		}
		if bound != manyVolumes {
			return fmt.Errorf("%d are", bound)
		}
		return nil
	})
	Report(t, Figure{Name: fmt.Sprintf("%d claims made and bound, for each", manyVolumes), Got: time.Since(began).Seconds() / manyVolumes, Unit: "s"})
	for i := range manyInUse {
		ns.RunPod(Pod{Name: fmt.Sprintf("user-%d", i), Mounts: []Mount{{Claim: fmt.Sprintf("data-%d", i), Path: "/data"}}})
	}
	after := controller()
	if after.UID != first.UID || restarts(after) != restarts(first) {
		t.Errorf("the controller was started again: %+v, and was %+v", after.Status.ContainerStatuses, first.Status.ContainerStatuses)
	}
	Report(t, Figure{Name: "memory of the controller before", Got: before, Unit: "MiB"})
	got := ns.memory(t, after, "controller")
	Report(t, Figure{Name: fmt.Sprintf("memory of the controller, %d volumes, %d in use", manyVolumes, manyInUse), Got: got, Target: controllerMemory, Unit: "MiB"})
	if got > 2*controllerMemory {
		t.Errorf("the controller has %.0f MiB, and may have %d", got, controllerMemory)
	}
	for i := range manyInUse {
		ns.DeletePod(fmt.Sprintf("user-%d", i))
	}
	began = time.Now()
	if err := ns.Client.CoreV1().PersistentVolumeClaims(ns.Namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	WaitFor(t, manyTimeout, fmt.Sprintf("%d volumes to go", manyVolumes), ns.volumesGone)
	Report(t, Figure{Name: fmt.Sprintf("%d claims deleted and gone, for each", manyVolumes), Got: time.Since(began).Seconds() / manyVolumes, Unit: "s"})
}
