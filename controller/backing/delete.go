package backing

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/kubewait"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Delete deletes the volume's claims and returns when they are gone; no error
// if there is none. Their classes decide what becomes of the volumes. A claim
// that a pod uses stays until the pod is gone: stop the engine first.
//
// It deletes the claims that are there when it begins, and no others: one that
// has taken a name since was made by a controller that has followed this one,
// which was frozen meanwhile and does not know that it is fenced.
func (c *Claims) Delete(ctx context.Context, volume string) error {
	names := []string{kubenames.BackingClaim(volume), kubenames.JournalClaim(volume)}
	found := make([]*corev1.PersistentVolumeClaim, len(names))
	for i, name := range names {
		var err error
		if found[i], err = c.get(ctx, volume, name); err != nil {
			return fmt.Errorf("delete backing claim %s: %w", name, err)
		}
	}
	for _, claim := range found {
		if claim == nil {
			continue
		}
		if err := c.deleteClaim(ctx, claim); err != nil {
			return fmt.Errorf("delete backing claim %s: %w", claim.Name, err)
		}
	}
	return nil
}

// deleteClaim deletes this claim, and returns when it is gone.
func (c *Claims) deleteClaim(ctx context.Context, seen *corev1.PersistentVolumeClaim) error {
	claims := c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace)
	err := kubewait.Until(ctx, func(ctx context.Context) (bool, error) {
		claim, err := claims.Get(ctx, seen.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && claim.UID != seen.UID:
			return true, nil
		case err != nil:
			return false, fmt.Errorf("get claim: %w", err)
		case claim.DeletionTimestamp != nil:
			return false, nil
		}
		// By uid: it may have become another one since the look.
		err = claims.Delete(ctx, seen.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(seen.UID))})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			err = nil
		}
		return false, err
	}, kubewait.Named(claims, seen.Name))
	if ctx.Err() != nil {
		return fmt.Errorf("claim is not gone yet: a pod may use it: %w", ctx.Err())
	}
	return err
}
