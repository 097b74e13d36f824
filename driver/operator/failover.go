package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
)

// beginFailover checks that what comes at the end is possible before anything
// is changed, and chooses the point and the term.
func (r *recoverer) beginFailover(ctx context.Context, rec *v1alpha1.Recovery, st group.State) error {
	for _, v := range r.members(st) {
		if err := r.publishable(ctx, rec, &v); err != nil {
			return err
		}
	}
	at := orDefault(rec.Spec.At, "latest")
	var out groups.Failover
	err := r.atPoint(ctx, rec, func(ctx context.Context) (err error) {
		out, err = r.fleet.Failover(ctx, name(rec), at, true)
		return err
	})
	switch {
	case errors.Is(err, group.ErrNoPoint), errors.Is(err, group.ErrBadSelector), errors.Is(err, group.ErrRole):
		return failing{err}
	case errors.Is(err, groups.ErrInUse):
		return waitFor("%v", err)
	case err != nil:
		return err
	}
	rec.Status.Point, rec.Status.Term = pointOf(&out.Point), int64(out.Term)
	rec.Status.RPO = v1alpha1.DurationOf(max(0, out.RPO).Truncate(time.Millisecond))
	r.enter(rec, v1alpha1.PhaseFencing)
	return nil
}

// publishable checks that a claim can be made for a volume.
func (r *recoverer) publishable(ctx context.Context, rec *v1alpha1.Recovery, v *fleet.Volume) error {
	key, ok := claimOf(v)
	if !ok {
		return nil // no claim was made for it at the primary either
	}
	if key.Namespace != rec.Namespace {
		return fail("volume %s is for claim %s, and this Recovery is in namespace %s: make it there", v.ID, key, rec.Namespace)
	}
	var claim corev1.PersistentVolumeClaim
	err := r.client.Get(ctx, key, &claim)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read claim %s: %w", key, err)
	}
	pv, err := r.volumeOfClaim(ctx, &claim)
	if err != nil {
		return err
	}
	if pv == nil || pv.Spec.CSI == nil || pv.Spec.CSI.VolumeHandle != v.ID.String() {
		return fail("claim %s exists and is not of volume %s: delete or rename it", key, v.ID)
	}
	return nil
}

// volumeOfClaim is what a claim is bound to, or asks for; nil without one.
func (r *recoverer) volumeOfClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolume, error) {
	if claim.Spec.VolumeName == "" {
		return nil, nil
	}
	var pv corev1.PersistentVolume
	err := r.client.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &pv)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read volume %s: %w", claim.Spec.VolumeName, err)
	}
	return &pv, nil
}

// fence only says what comes now: the streams are ended by the promotion itself,
// which holds them until the new term is durable.
func (r *recoverer) fence(_ context.Context, rec *v1alpha1.Recovery) error {
	r.enter(rec, v1alpha1.PhasePromoting)
	return nil
}

// promote makes this site primary, unless an earlier step did and was not told
// of: the term that was chosen, or a higher one, says so. Where such a term is another
// site's, somebody has decided for that one since this began.
func (r *recoverer) promote(ctx context.Context, rec *v1alpha1.Recovery) error {
	err := r.atPoint(ctx, rec, func(ctx context.Context) error {
		st, ok := r.state(rec)
		if !ok {
			return fail("group %s has ended", rec.Spec.Group)
		}
		if st.Role == group.RolePrimary && st.Pending == nil && int64(st.Term) >= rec.Status.Term {
			rec.Status.Term = int64(st.Term)
			return nil
		}
		if st.Role == group.RoleReplica && st.Pending == nil && int64(st.Term) >= rec.Status.Term {
			// The promotion may have been, and this controller not have told of it before the
			// other site took the group back.
			return fail("this failover was to make this site the primary at term %d, and the group is at term %d by now, of which site %s is the primary: "+
				"if it is to come here all the same, make another Recovery", rec.Status.Term, st.Term, orDefault(st.Source, "(not known)"))
		}
		out, err := r.fleet.Failover(ctx, name(rec), checkpointOf(rec.Status.Point), false)
		if err == nil {
			rec.Status.Term = int64(out.Term)
		}
		return err
	})
	switch {
	case errors.Is(err, groups.ErrInUse):
		return waitFor("%v", err)
	case errors.Is(err, group.ErrNoPoint), errors.Is(err, group.ErrRole):
		return failing{err}
	case err != nil:
		return err
	}
	r.enter(rec, v1alpha1.PhasePublishing)
	return nil
}
