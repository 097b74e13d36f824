package backing

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-csi/lockstep/controller/kubewait"
	"github.com/lockstep-csi/lockstep/internal/kubenames"
)

// Ensure makes the volume's claims, if they are not there, and returns when
// they are bound; with a class that binds at first consumer and no node, when
// they wait for a consumer. It waits as long as ctx allows, and the claims stay
// when that ends.
//
// A provisioner's refusal is ErrExhausted with the provisioner's own words, and
// the claim is deleted (see Spec.New): only then does a scheduler try another
// node. ErrInvalid, ErrClass, ErrForeign, ErrTopology; ErrDeleted when somebody deletes a claim
// meanwhile.
func (c *Claims) Ensure(ctx context.Context, s Spec) (Placement, error) {
	if err := s.validate(); err != nil {
		return Placement{}, fmt.Errorf("make backing claim: %w", err)
	}
	made, err := c.ensureClaims(ctx, s)
	if err != nil {
		return Placement{}, err
	}
	result := Placement{Bound: true, Fence: FenceNode}
	for _, m := range made {
		placed, err := c.placed(ctx, s, m)
		if err != nil {
			return Placement{}, fmt.Errorf("make backing claim %s: %w", m.name, c.giveUp(ctx, s, m.claim, err))
		}
		result = merge(result, placed)
	}
	if result.Bound && result.Topology != nil && len(result.Topology) == 0 {
		err := fmt.Errorf("%w: store and journal are in places that have no node in common: use classes of one topology", ErrTopology)
		return Placement{}, c.giveUp(ctx, s, nil, err)
	}
	return result, nil
}

// giveUp deletes what is of no use after a refusal, and returns err with what
// went wrong then. Of a new volume that is every claim: the other one would
// hold on to its node.
func (c *Claims) giveUp(ctx context.Context, s Spec, refused *corev1.PersistentVolumeClaim, err error) error {
	switch {
	case !errors.Is(err, ErrExhausted) && !errors.Is(err, ErrTopology):
		return err
	case s.New:
		return errors.Join(err, c.Delete(ctx, s.Volume))
	case errors.Is(err, ErrExhausted): // it was never bound
		return errors.Join(err, c.deleteClaim(ctx, refused))
	}
	return err
}

// merge is what holds for both parts.
func merge(a, b Placement) Placement {
	if !a.Bound || !b.Bound {
		return Placement{}
	}
	return Placement{
		Bound: true, Topology: bothTopologies(a.Topology, b.Topology),
		Fence: weakest(a.Fence, b.Fence), Volumes: append(a.Volumes, b.Volumes...),
	}
}

// madePart is a part whose claim is there.
type madePart struct {
	part
	class *storagev1.StorageClass
	claim *corev1.PersistentVolumeClaim
}

// ensureClaims makes all claims before any of them is waited for, and none if a
// class cannot be used.
func (c *Claims) ensureClaims(ctx context.Context, s Spec) ([]madePart, error) {
	var made []madePart
	for _, p := range s.parts() {
		class, err := c.class(ctx, p.class)
		if err != nil {
			return nil, fmt.Errorf("make backing claim %s: %w", p.name, err)
		}
		made = append(made, madePart{part: p, class: class})
	}
	for i := range made {
		m := &made[i]
		var err error
		if m.claim, err = c.ensureClaim(ctx, s, m.part, m.class); err != nil {
			return nil, fmt.Errorf("make backing claim %s: %w", m.name, err)
		}
	}
	return made, nil
}

// placed returns where a claim's volume is, once it is bound.
func (c *Claims) placed(ctx context.Context, s Spec, m madePart) (Placement, error) {
	claim, err := c.awaitBound(ctx, m.claim, delaysBinding(m.class) && s.Node == "")
	if err != nil {
		return Placement{}, err
	}
	if claim.Status.Phase != corev1.ClaimBound {
		return Placement{}, nil
	}
	return c.place(ctx, claim)
}

// ensureClaim returns the claim, made now or before. One that is being deleted,
// by an earlier call that failed, is waited for first.
func (c *Claims) ensureClaim(ctx context.Context, s Spec, p part, class *storagev1.StorageClass) (*corev1.PersistentVolumeClaim, error) {
	claims := c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace)
	wanted := c.claim(s, p, class)
	var claim *corev1.PersistentVolumeClaim
	err := kubewait.Until(ctx, func(ctx context.Context) (bool, error) {
		var err error
		if claim, err = c.get(ctx, s.Volume, p.name); err != nil {
			return false, err
		}
		if claim == nil {
			claim, err = claims.Create(ctx, wanted, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				claim, err = c.get(ctx, s.Volume, p.name)
			}
		}
		return claim != nil && claim.DeletionTimestamp == nil, err
	}, kubewait.Named(claims, p.name))
	if err != nil {
		return nil, err
	}
	return c.correct(ctx, claim, wanted)
}

// correct brings a claim that was made before to what is wanted now: another
// node after the scheduler tried again, another group.
func (c *Claims) correct(ctx context.Context, claim, wanted *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	if has := claim.Spec.StorageClassName; has == nil || *has != *wanted.Spec.StorageClassName {
		return nil, fmt.Errorf("%w: claim %s has another class than %s", ErrForeign, claim.Name, *wanted.Spec.StorageClassName)
	}
	node, wantedNode := claim.Annotations[annotationSelectedNode], wanted.Annotations[annotationSelectedNode]
	moves := wantedNode != "" && node != wantedNode && claim.Spec.VolumeName == ""
	if !moves && sameLabels(claim.Labels, wanted.Labels) {
		return claim, nil
	}
	changed := relabelled(claim, wanted.Labels, wanted.Annotations[kubenames.AnnotationGroup])
	if moves {
		changed.Annotations[annotationSelectedNode] = wantedNode
	}
	updated, err := c.config.Client.CoreV1().PersistentVolumeClaims(c.config.Namespace).Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("correct claim: %w", err)
	}
	return updated, nil
}

// awaitBound returns the claim once it is bound, or, if that is enough, as soon
// as it is known to wait for a consumer.
func (c *Claims) awaitBound(ctx context.Context, claim *corev1.PersistentVolumeClaim, pendingWillDo bool) (*corev1.PersistentVolumeClaim, error) {
	if pendingWillDo {
		return claim, nil
	}
	core := c.config.Client.CoreV1()
	uid := claim.UID
	err := kubewait.Until(ctx, func(ctx context.Context) (bool, error) {
		found, err := c.get(ctx, claim.Labels[kubenames.LabelVolume], claim.Name)
		switch {
		case err != nil:
			return false, err
		case found == nil || found.UID != uid || found.DeletionTimestamp != nil:
			return false, fmt.Errorf("%w while it was waited for", ErrDeleted)
		case found.Status.Phase == corev1.ClaimLost:
			return false, fmt.Errorf("%w: claim %s has lost its volume %s", ErrDeleted, found.Name, found.Spec.VolumeName)
		case found.Status.Phase == corev1.ClaimBound:
			claim = found
			return true, nil
		}
		return false, c.refusal(ctx, found)
	}, kubewait.Named(core.PersistentVolumeClaims(c.config.Namespace), claim.Name),
		kubewait.Selected(core.Events(c.config.Namespace), eventsOf(claim)))
	if ctx.Err() != nil {
		err = fmt.Errorf("claim is not bound yet: %w%s", ctx.Err(), c.newestEvent(claim))
	}
	return claim, err
}

// place reads what a bound claim's volume says.
func (c *Claims) place(ctx context.Context, claim *corev1.PersistentVolumeClaim) (Placement, error) {
	pv, err := c.config.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Placement{}, fmt.Errorf("%w: PersistentVolume %s does not exist", ErrDeleted, claim.Spec.VolumeName)
	}
	if err != nil {
		return Placement{}, fmt.Errorf("get volume: %w", err)
	}
	topology, err := topologyOf(pv)
	if err != nil {
		return Placement{}, err
	}
	attachable, err := c.attachable(ctx, pv)
	if err != nil {
		return Placement{}, err
	}
	return Placement{Bound: true, Topology: topology, Fence: fenceOf(pv, attachable), Volumes: []string{pv.Name}}, nil
}

// attachable reports whether Kubernetes attaches a volume by VolumeAttachment:
// those of CSI drivers that do not say otherwise.
func (c *Claims) attachable(ctx context.Context, pv *corev1.PersistentVolume) (bool, error) {
	if pv.Spec.CSI == nil {
		return false, nil
	}
	driver, err := c.config.Client.StorageV1().CSIDrivers().Get(ctx, pv.Spec.CSI.Driver, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("get CSIDriver %s: %w", pv.Spec.CSI.Driver, err)
	}
	return driver.Spec.AttachRequired == nil || *driver.Spec.AttachRequired, nil
}
