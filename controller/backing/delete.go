package backing

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/kubewait"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Delete deletes the volume's claims and returns when they are gone; no error
// if there is none. Their classes decide what becomes of the volumes. A claim
// that a pod uses stays until the pod is gone: stop the engine first.
func (c *Claims) Delete(ctx context.Context, volume string) error {
	for _, name := range []string{kubenames.BackingClaim(volume), kubenames.JournalClaim(volume)} {
		if err := c.deleteClaim(ctx, volume, name); err != nil {
			return fmt.Errorf("delete backing claim %s: %w", name, err)
		}
	}
	return nil
}

func (c *Claims) deleteClaim(ctx context.Context, volume, name string) error {
	claims := c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace)
	err := kubewait.Until(ctx, func(ctx context.Context) (bool, error) {
		claim, err := c.get(ctx, volume, name)
		if err != nil || claim == nil {
			return err == nil, err
		}
		if claim.DeletionTimestamp != nil {
			return false, nil
		}
		// By uid: a claim that took its name meanwhile was not looked at.
		err = claims.Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(claim.UID))})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			err = nil
		}
		return false, err
	}, kubewait.Named(claims, name))
	if ctx.Err() != nil {
		return fmt.Errorf("claim is not gone yet: a pod may use it: %w", ctx.Err())
	}
	return err
}
