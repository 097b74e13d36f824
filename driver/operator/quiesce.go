package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
)

// quiesce scales what uses the group to 0 and waits until its pods are gone.
// The sizes are in the status before anything is scaled: the first step writes
// them, and the next one scales. It does so at each look: somebody may have
// scaled a workload up again meanwhile, or another one may have come.
func (r *recoverer) quiesce(ctx context.Context, rec *v1alpha1.Recovery) error {
	users, err := r.users(ctx, rec)
	if err != nil {
		return err
	}
	if rec.Spec.Workloads != v1alpha1.WorkloadsKeep {
		if news, err := r.remember(ctx, rec, users); err != nil || news {
			return err
		}
		for i := range rec.Status.Workloads {
			if err := r.scale(ctx, rec, &rec.Status.Workloads[i], 0, nil); err != nil {
				return err
			}
		}
	}
	if len(users) > 0 {
		return waitFor("pods use the group's claims: %s", podNames(users))
	}
	r.enter(rec, v1alpha1.PhaseDetaching)
	return nil
}

// scale gives a workload of a recovery a size, as long as the recovery is what this controller has read:
// one that was suspended meanwhile, and replaced, would stop the workloads of a recovery that has ended, or start
// those that another one has stopped.
func (r *recoverer) scale(ctx context.Context, rec *v1alpha1.Recovery, w *v1alpha1.ScaledWorkload, size int32, from *int32) error {
	return r.scaler.scale(ctx, rec.Namespace, w, size, from, func() error {
		var now v1alpha1.Recovery
		err := r.client.Get(ctx, client.ObjectKeyFromObject(rec), &now)
		if apierrors.IsNotFound(err) || err == nil && (now.UID != rec.UID || now.ResourceVersion != rec.ResourceVersion) {
			return fmt.Errorf("look again at Recovery %s: %w", client.ObjectKeyFromObject(rec), errChanged)
		}
		return err
	})
}

// errChanged: somebody has written a recovery since it was read.
var errChanged = errors.New("it was changed meanwhile")

func podNames(pods []corev1.Pod) string {
	var names []string
	for i := range pods {
		names = append(names, pods[i].Name)
	}
	return strings.Join(names, ", ")
}

// users are the pods that use claims of the group.
func (r *recoverer) users(ctx context.Context, rec *v1alpha1.Recovery) ([]corev1.Pod, error) {
	st, ok := r.state(rec)
	if !ok {
		return nil, fail("group %s has ended", rec.Spec.Group)
	}
	var all []corev1.Pod
	for _, v := range r.members(st) {
		key, ok := claimOf(&v)
		if !ok {
			continue
		}
		pods, err := r.scaler.decider.users(ctx, key.Namespace, key.Name)
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			if !slices.ContainsFunc(all, func(other corev1.Pod) bool { return other.UID == pod.UID }) {
				all = append(all, pod)
			}
		}
	}
	return all, nil
}

// remember puts the workloads of pods into the status, with their sizes, and
// reports whether any is new there.
func (r *recoverer) remember(ctx context.Context, rec *v1alpha1.Recovery, users []corev1.Pod) (news bool, err error) {
	for i := range users {
		if users[i].DeletionTimestamp != nil {
			continue // on its way already
		}
		w, err := r.scaler.workloadOf(ctx, &users[i])
		if errors.Is(err, errUnscalable) {
			return news, waitFor("%v", err)
		}
		if err != nil {
			return news, err
		}
		known := slices.IndexFunc(rec.Status.Workloads, func(o v1alpha1.ScaledWorkload) bool {
			return o.APIVersion == w.APIVersion && o.Kind == w.Kind && o.Name == w.Name
		})
		if known < 0 && w.Replicas > 0 {
			rec.Status.Workloads = append(rec.Status.Workloads, w)
			news = true
		}
	}
	return news, nil
}

// idleTimeout bounds one look at whether a group is in use.
const idleTimeout = 10 * time.Second

// detach waits until no node has anything of the group mounted, published or
// claimed. Its volumes may stay attached: that Kubernetes has detached them it
// learns seconds later, by what the kubelet reports.
func (r *recoverer) detach(ctx context.Context, rec *v1alpha1.Recovery) error {
	users, err := r.users(ctx, rec)
	if err != nil {
		return err
	}
	if len(users) > 0 { // they have come since
		r.enter(rec, v1alpha1.PhaseQuiescing)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, idleTimeout)
	defer cancel()
	switch err := r.fleet.Idle(ctx, name(rec)); {
	case errors.Is(err, groups.ErrInUse), errors.Is(err, fleet.ErrNoEngine):
		return waitFor("%v", err)
	case err != nil:
		return err
	}
	r.enter(rec, v1alpha1.PhaseRewinding)
	return nil
}

// persistentVolumes are those of this driver, by handle.
func (r *recoverer) persistentVolumes(ctx context.Context) (map[string]*corev1.PersistentVolume, error) {
	var all corev1.PersistentVolumeList
	if err := r.client.List(ctx, &all); err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	out := map[string]*corev1.PersistentVolume{}
	for i := range all.Items {
		if csi := all.Items[i].Spec.CSI; csi != nil && csi.Driver == r.driver {
			out[csi.VolumeHandle] = &all.Items[i]
		}
	}
	return out, nil
}

// resume scales each workload to what it was, but one that somebody has given
// another size meanwhile. It is done when the devices that the rewind took away are
// back: nobody else would try again, and pods wait for them.
func (r *recoverer) resume(ctx context.Context, rec *v1alpha1.Recovery) error {
	for i := range rec.Status.Workloads {
		w := &rec.Status.Workloads[i]
		if w.Restored {
			continue
		}
		stopped := int32(0)
		if err := r.scale(ctx, rec, w, w.Replicas, &stopped); err != nil {
			return err
		}
		w.Restored = true
	}
	err := r.restoreDevices(ctx, rec)
	switch {
	case isFailing(rec):
		if err != nil { // it has failed for another reason, which is to be told
			r.log.Warn("after a recovery that failed a device is missing", "group", name(rec), "error", err)
		}
		r.enter(rec, v1alpha1.PhaseFailed)
		return nil
	case err != nil:
		return err
	}
	r.enter(rec, v1alpha1.PhaseCompleted)
	return nil
}

// restoreDevices has engines that were to attach their devices again, and could
// not, try once more.
func (r *recoverer) restoreDevices(ctx context.Context, rec *v1alpha1.Recovery) error {
	missing := func() *fleet.Volume {
		st, ok := r.state(rec)
		if !ok {
			return nil
		}
		for _, v := range r.members(st) {
			if v.Attach != nil && !v.Attach.Leaving && v.State.Device == "" {
				return &v
			}
		}
		return nil
	}
	if missing() == nil {
		return nil
	}
	return r.awake(ctx, rec, false, func(context.Context) error { // which has them carry out their orders
		if v := missing(); v != nil {
			return waitFor("the engine of %s has no device yet: %s", v.Title(), v.State.Error)
		}
		return nil
	})
}
