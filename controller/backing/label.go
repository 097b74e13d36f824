package backing

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Label has the volume's claims say which group it is in: a volume can move to
// another one at any time. No error if there are none.
func (c *Claims) Label(ctx context.Context, s Spec) error {
	for _, p := range s.parts() {
		if err := c.labelClaim(ctx, s, p.name); err != nil {
			return fmt.Errorf("label claim %s: %w", p.name, err)
		}
	}
	return nil
}

func (c *Claims) labelClaim(ctx context.Context, s Spec, name string) error {
	wanted := map[string]string{kubenames.LabelGroup: kubenames.GroupHash(s.Group)}
	for {
		claim, err := c.get(ctx, s.Volume, name)
		if err != nil || claim == nil || sameLabels(claim.Labels, wanted) && claim.Annotations[kubenames.AnnotationGroup] == s.Group {
			return err
		}
		_, err = c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace).Update(ctx, relabelled(claim, wanted, s.Group), metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}

// relabelled is a claim with labels, and its group's name, changed.
func relabelled(claim *corev1.PersistentVolumeClaim, labels map[string]string, group string) *corev1.PersistentVolumeClaim {
	changed := claim.DeepCopy()
	if changed.Labels == nil {
		changed.Labels = map[string]string{}
	}
	maps.Copy(changed.Labels, labels)
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[kubenames.AnnotationGroup] = group
	return changed
}
