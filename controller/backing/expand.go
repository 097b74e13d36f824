package backing

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/kubewait"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Expand makes the volume's claims big enough for the specification, and
// returns when their file systems are. It never shrinks one, and asks for nothing
// if one of them cannot be had; a request for more, which has not been served, is
// taken back where Kubernetes allows it.
//
// ErrNotFound; ErrNotExpandable; ErrExhausted when the storage has refused,
// where the claim goes on asking; ErrNeedsEngine when only a running engine's
// kubelet can finish it.
func (c *Claims) Expand(ctx context.Context, s Spec) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("expand backing claim: %w", err)
	}
	for _, p := range s.parts() {
		if err := c.mayExpand(ctx, s, p); err != nil {
			return fmt.Errorf("expand backing claim %s: %w", p.name, err)
		}
	}
	for _, p := range s.parts() {
		if err := c.expandPart(ctx, s, p); err != nil {
			return fmt.Errorf("expand backing claim %s: %w", p.name, err)
		}
	}
	return nil
}

// mayExpand returns an error for a claim that is too small and stays so.
func (c *Claims) mayExpand(ctx context.Context, s Spec, p part) error {
	claim, err := c.get(ctx, s.Volume, p.name)
	switch {
	case err != nil:
		return err
	case claim == nil || claim.DeletionTimestamp != nil:
		return ErrNotFound
	case capacity(claim) >= p.sizeBytes:
		return nil
	}
	return c.checkExpandable(ctx, claim)
}

func (c *Claims) checkExpandable(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	class, err := c.class(ctx, *claim.Spec.StorageClassName)
	if err != nil {
		return err
	}
	if class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return fmt.Errorf("%w: set allowVolumeExpansion: true in StorageClass %s, if its driver can expand", ErrNotExpandable, class.Name)
	}
	return nil
}

func (c *Claims) expandPart(ctx context.Context, s Spec, p part) error {
	claims := c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace)
	asked := false
	return kubewait.Until(ctx, func(ctx context.Context) (bool, error) {
		claim, err := c.get(ctx, s.Volume, p.name)
		switch {
		case err != nil:
			return false, err
		case claim == nil || claim.DeletionTimestamp != nil:
			return false, ErrNotFound
		case claim.Status.Phase == corev1.ClaimBound && capacity(claim) >= p.sizeBytes:
			return true, nil
		}
		if !asked {
			changed, err := c.ask(ctx, claim, p.sizeBytes)
			if err != nil {
				return false, retryConflict(err)
			}
			asked = true
			if changed { // what the claim says is about the size before
				return false, nil
			}
		}
		return false, c.hindrance(ctx, claim)
	}, kubewait.Named(claims, p.name))
}

func capacity(claim *corev1.PersistentVolumeClaim) int64 {
	return claim.Status.Capacity.Storage().Value()
}

// ask has the claim request a size: more, or less than an earlier call had asked for
// and not got. Kubernetes takes a request back as long as it is more than there is, and
// one of before 1.32 not at all: such a claim goes on asking for what it did.
func (c *Claims) ask(ctx context.Context, claim *corev1.PersistentVolumeClaim, sizeBytes int64) (changed bool, err error) {
	if err := c.checkExpandable(ctx, claim); err != nil {
		return false, err
	}
	requested := claim.Spec.Resources.Requests.Storage().Value()
	if requested == sizeBytes {
		return false, nil
	}
	other := claim.DeepCopy()
	other.Spec.Resources.Requests[corev1.ResourceStorage] = *resource.NewQuantity(sizeBytes, resource.BinarySI)
	_, err = c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace).Update(ctx, other, metav1.UpdateOptions{})
	if requested > sizeBytes && (apierrors.IsInvalid(err) || apierrors.IsForbidden(err)) {
		return false, nil
	}
	return err == nil, err
}

// retryConflict drops an error that the next look mends: the claim was changed
// since it was read, and the change wakes the wait.
func retryConflict(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// hindrance says why an expansion will not go on by itself.
func (c *Claims) hindrance(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	status := claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage]
	infeasible := status == corev1.PersistentVolumeClaimControllerResizeInfeasible || status == corev1.PersistentVolumeClaimNodeResizeInfeasible
	if infeasible && isOfRequest(claim) {
		return fmt.Errorf("%w: %s%s", ErrExhausted, status, c.newestEvent(claim))
	}
	for _, condition := range claim.Status.Conditions {
		if condition.Type != corev1.PersistentVolumeClaimFileSystemResizePending || condition.Status != corev1.ConditionTrue {
			continue
		}
		used, err := c.used(ctx, claim)
		if err == nil && !used {
			return ErrNeedsEngine
		}
		return err
	}
	return nil
}

// isOfRequest reports whether what a claim says of its expansion is about the size that
// it requests now. One whose request has just changed says it of the size before.
func isOfRequest(claim *corev1.PersistentVolumeClaim) bool {
	tried, known := claim.Status.AllocatedResources[corev1.ResourceStorage]
	return !known || tried.Cmp(*claim.Spec.Resources.Requests.Storage()) == 0
}

// used reports whether a pod that is on a node mounts the claim.
func (c *Claims) used(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	pods, err := c.config.Client.CoreV1().Pods(c.config.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: kubenames.LabelVolume + "=" + claim.Labels[kubenames.LabelVolume],
	})
	if err != nil {
		return false, fmt.Errorf("list the claim's pods: %w", err)
	}
	for _, pod := range pods.Items {
		if pod.Spec.NodeName != "" && pod.DeletionTimestamp == nil {
			return true, nil
		}
	}
	return false, nil
}
