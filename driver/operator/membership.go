package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	rtcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// moveRetry is how long after a refusal that ends by itself a move is tried
// again: an operation on a group, a rewind that is not committed, an engine that does not
// come, a peer that does not answer.
const moveRetry = 10 * time.Second

// movesAtOnce is how many claims can be moved at a time: one of them may wait for engines.
const movesAtOnce = 8

// membership moves the volumes of claims whose group has changed.
type membership struct {
	client  client.Client
	decider decider
	fleet   Fleet
	catalog Catalog
	driver  string
	events  events
	log     *slog.Logger
}

// Reconcile implements reconcile.Reconciler for a claim.
func (m *membership) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var claim corev1.PersistentVolumeClaim
	if err := m.client.Get(ctx, req.NamespacedName, &claim); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	id, ok, err := m.volumeOf(ctx, &claim)
	if err != nil || !ok {
		return reconcile.Result{}, err
	}
	present, err := m.catalog.GroupOf(id)
	if errors.Is(err, controller.ErrNotFound) {
		return reconcile.Result{}, nil // a replica, or being deleted
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	wanted, err := m.decider.decide(ctx, &claim)
	if errors.Is(err, controller.ErrInvalid) {
		m.events.warn(&claim, "GroupInvalid", "Group", "%v", err)
		return reconcile.Result{}, nil // until something changes
	}
	if err != nil || wanted.group == present || !wanted.certain || !m.isPrimary(present) {
		return reconcile.Result{}, err
	}
	return m.move(ctx, &claim, id, present, wanted.group)
}

func (m *membership) move(ctx context.Context, claim *corev1.PersistentVolumeClaim, id journal.VolumeID, from, to string) (reconcile.Result, error) {
	chosen, err := chosenFor(ctx, m.client, to)
	if err == nil {
		err = m.catalog.Regroup(ctx, id, to, chosen, func(ctx context.Context, settings group.Settings) error {
			return m.fleet.MoveVolume(ctx, id, to, settings)
		})
	}
	switch {
	case err == nil:
		m.events.note(claim, "GroupChanged", "Group", "claim %s/%s (volume %s) has moved from group %s to group %s; its points in the old group stay", claim.Namespace, claim.Name, id, from, to)
		return reconcile.Result{}, nil
	case errors.Is(err, group.ErrRewindOpen), errors.Is(err, group.ErrBusy), errors.Is(err, controller.ErrInUse), errors.Is(err, controller.ErrBusy),
		errors.Is(err, fleet.ErrNoEngine), errors.Is(err, groups.ErrUnconfirmed):
		m.events.warn(claim, "GroupNotChanged", "Group", "%v", err)
		return reconcile.Result{RequeueAfter: moveRetry}, nil
	}
	m.events.warn(claim, "GroupNotChanged", "Group", "%v", err)
	return reconcile.Result{}, err
}

// volumeOf is the volume that a claim is bound to, if it is one of this driver.
func (m *membership) volumeOf(ctx context.Context, claim *corev1.PersistentVolumeClaim) (id journal.VolumeID, ok bool, err error) {
	if claim.Spec.VolumeName == "" || claim.DeletionTimestamp != nil {
		return id, false, nil
	}
	var pv corev1.PersistentVolume
	if err := m.client.Get(ctx, types.NamespacedName{Name: claim.Spec.VolumeName}, &pv); err != nil {
		if apierrors.IsNotFound(err) {
			return id, false, nil
		}
		return id, false, fmt.Errorf("read volume %s: %w", claim.Spec.VolumeName, err)
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != m.driver {
		return id, false, nil
	}
	id, err = journal.ParseVolumeID(pv.Spec.CSI.VolumeHandle)
	return id, err == nil, nil // another handle is none of ours
}

func (m *membership) isPrimary(name string) bool {
	for _, st := range m.fleet.States() {
		if st.Name == name {
			return st.Role == group.RolePrimary
		}
	}
	return false
}

// setUp has everything that decides about groups looked at when it changes.
func (m *membership) setUp(mgr manager.Manager) error {
	annotated := builder.WithPredicates(predicate.AnnotationChangedPredicate{})
	b := builder.ControllerManagedBy(mgr).Named("membership").
		For(&corev1.PersistentVolumeClaim{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(claimsOfPod), builder.WithPredicates(podDecides)).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(m.claimsIn), annotated).
		WithOptions(rtcontroller.Options{MaxConcurrentReconciles: movesAtOnce})
	for _, kind := range workloadKinds() {
		b = b.WatchesMetadata(kind, handler.EnqueueRequestsFromMapFunc(m.claimsIn), annotated)
	}
	return b.Complete(m)
}

// podDecides lets pods through whose word about a group may have changed.
var podDecides = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	old, isOld := e.ObjectOld.(*corev1.Pod)
	now, isNow := e.ObjectNew.(*corev1.Pod)
	return !isOld || !isNow || isOver(old) != isOver(now) || !maps.Equal(old.Annotations, now.Annotations)
}}

func claimsOfPod(_ context.Context, object client.Object) []reconcile.Request {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return nil
	}
	var requests []reconcile.Request
	for _, name := range claimsOf(pod) {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: name}})
	}
	return requests
}

// claimsIn are the claims of an object's namespace, or of the namespace that it
// is.
func (m *membership) claimsIn(ctx context.Context, object client.Object) []reconcile.Request {
	namespace := object.GetNamespace()
	if namespace == "" {
		namespace = object.GetName()
	}
	var claims corev1.PersistentVolumeClaimList
	if err := m.client.List(ctx, &claims, client.InNamespace(namespace)); err != nil {
		m.log.Warn("claims are not looked at again", "namespace", namespace, "error", err)
		return nil
	}
	var requests []reconcile.Request
	for i := range claims.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&claims.Items[i])})
	}
	return requests
}
