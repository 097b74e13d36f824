package e2e

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Claim says what is particular about a PersistentVolumeClaim of a test.
type Claim struct {
	Name        string
	Class       string
	Size        string                            // 1Gi when empty
	Mode        corev1.PersistentVolumeAccessMode // ReadWriteOnce when empty
	Block       bool
	Annotations map[string]string
	From        *corev1.TypedObjectReference // what it is restored or cloned from
}

// object is the claim as the API server takes it.
func (c Claim) object() *corev1.PersistentVolumeClaim {
	size, mode, volume := c.Size, c.Mode, corev1.PersistentVolumeFilesystem
	if size == "" {
		size = "1Gi"
	}
	if mode == "" {
		mode = corev1.ReadWriteOnce
	}
	if c.Block {
		volume = corev1.PersistentVolumeBlock
	}
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: c.Name, Annotations: c.Annotations},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &c.Class,
			AccessModes:      []corev1.PersistentVolumeAccessMode{mode},
			VolumeMode:       &volume,
			DataSourceRef:    c.From,
			Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
}

// CreateClaim makes a claim and does not wait for its volume.
func (n *Namespace) CreateClaim(claim Claim) {
	n.t.Helper()
	_, err := n.Client.CoreV1().PersistentVolumeClaims(n.Namespace).Create(n.t.Context(), claim.object(), metav1.CreateOptions{})
	if err != nil {
		n.t.Fatalf("make claim %s: %v", claim.Name, err)
	}
}

// Volume waits until a claim is bound and returns its volume.
func (n *Namespace) Volume(claim string) *corev1.PersistentVolume {
	n.t.Helper()
	var volume *corev1.PersistentVolume
	WaitFor(n.t, volumeTimeout, "claim "+claim+" to be bound", func(ctx context.Context) error {
		got, err := n.Client.CoreV1().PersistentVolumeClaims(n.Namespace).Get(ctx, claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got.Status.Phase != corev1.ClaimBound {
			return fmt.Errorf("it is %s", got.Status.Phase)
		}
		volume, err = n.Client.CoreV1().PersistentVolumes().Get(ctx, got.Spec.VolumeName, metav1.GetOptions{})
		return err
	})
	return volume
}

// DeleteClaim deletes a claim and waits until it and its volume are gone.
func (n *Namespace) DeleteClaim(claim string) {
	n.t.Helper()
	claims := n.Client.CoreV1().PersistentVolumeClaims(n.Namespace)
	got, err := claims.Get(n.t.Context(), claim, metav1.GetOptions{})
	if err == nil {
		err = claims.Delete(n.t.Context(), claim, metav1.DeleteOptions{})
	}
	if err != nil {
		n.t.Fatalf("delete claim %s: %v", claim, err)
	}
	WaitFor(n.t, volumeTimeout, "claim "+claim+" and its volume to go", func(ctx context.Context) error {
		if _, err := claims.Get(ctx, claim, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the claim is there still (%v)", err)
		}
		if got.Spec.VolumeName == "" {
			return nil
		}
		volume, err := n.Client.CoreV1().PersistentVolumes().Get(ctx, got.Spec.VolumeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("volume %s is %s: %s", volume.Name, volume.Status.Phase, volume.Status.Message)
	})
}

// Expand asks for a bigger volume and returns how long it took until the claim
// had it, file system included.
func (n *Namespace) Expand(claim, size string) time.Duration {
	n.t.Helper()
	began, want := time.Now(), resource.MustParse(size)
	n.requestSize(claim, size)
	claims := n.Client.CoreV1().PersistentVolumeClaims(n.Namespace)
	WaitFor(n.t, volumeTimeout, "claim "+claim+" to have "+size, func(ctx context.Context) error {
		got, err := claims.Get(ctx, claim, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if have := got.Status.Capacity[corev1.ResourceStorage]; have.Cmp(want) < 0 {
			return fmt.Errorf("it has %s, conditions %v", have.String(), got.Status.Conditions)
		}
		return nil
	})
	return time.Since(began)
}

// requestSize asks for a bigger volume and does not wait for it.
func (n *Namespace) requestSize(claim, size string) {
	n.t.Helper()
	n.modifyClaim(claim, func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse(size)
	})
}

// modifyClaim changes a claim, once more after each conflict.
func (n *Namespace) modifyClaim(name string, edit func(*corev1.PersistentVolumeClaim)) {
	n.t.Helper()
	claims := n.Client.CoreV1().PersistentVolumeClaims(n.Namespace)
	WaitFor(n.t, volumeTimeout, "claim "+name+" to be changed", func(ctx context.Context) error {
		claim, err := claims.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		edit(claim)
		_, err = claims.Update(ctx, claim, metav1.UpdateOptions{})
		if refused(err) {
			return Final(err)
		}
		return err
	})
}
