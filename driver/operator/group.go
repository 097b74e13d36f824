package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

// advanceInterval is how often a status is written of which nothing changed but
// what advances by itself.
const advanceInterval = 10 * time.Second

const (
	// summaryTimeout bounds the questions to engines for one status, and a change of a
	// group's settings, which goes on behind that.
	summaryTimeout = 10 * time.Second
	// silenceTolerated is how long they may fail before the status says so: an engine
	// that is replaced does not answer for a moment either.
	silenceTolerated = 10 * time.Second
)

// groupKeeper keeps the ConsistencyGroup of each group: its settings go to the
// group, and what the site knows of the group to its status.
type groupKeeper struct {
	client  client.Client
	fleet   Fleet
	catalog Catalog
	events  events
	clock   clock.Clock
	log     *slog.Logger

	mu sync.Mutex
	// applied is what was last taken of each resource's spec; guarded by mu.
	applied map[types.NamespacedName]application
	// written is when a status was last written; guarded by mu.
	written map[types.NamespacedName]time.Time
	// silent is since when the members of a group do not tell of its points; guarded by mu.
	silent map[types.NamespacedName]time.Time
}

// application is how it went with a spec.
type application struct {
	uid        types.UID
	generation int64
	refused    error
}

// Reconcile implements reconcile.Reconciler for a group or its resource.
func (k *groupKeeper) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	name := groupName(req.Namespace, req.Name)
	var resource v1alpha1.ConsistencyGroup
	err := k.client.Get(ctx, req.NamespacedName, &resource)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	exists := err == nil && resource.DeletionTimestamp == nil
	st, ok := k.state(name)
	switch {
	case !ok && !exists:
		k.forget(req.NamespacedName)
		return reconcile.Result{}, nil
	case !ok:
		return reconcile.Result{}, k.ended(ctx, &resource)
	case !exists && err == nil:
		return reconcile.Result{}, nil // comes again when it is gone
	case !exists:
		return reconcile.Result{}, k.create(ctx, req.NamespacedName)
	}
	applied := k.apply(ctx, &resource, st)
	if err := k.describe(ctx, &resource, name, applied); err != nil {
		return reconcile.Result{}, err
	}
	if applied.refused != nil && !errors.Is(applied.refused, controller.ErrInvalid) {
		return reconcile.Result{}, applied.refused
	}
	return reconcile.Result{}, nil
}

func (k *groupKeeper) state(name string) (group.State, bool) {
	states := k.fleet.States()
	i := slices.IndexFunc(states, func(st group.State) bool { return st.Name == name })
	if i < 0 {
		return group.State{}, false
	}
	return states[i], true
}

// create makes the resource of a group that has none. The namespace of a
// replica's may not exist here; then the group has none until it does.
func (k *groupKeeper) create(ctx context.Context, key types.NamespacedName) error {
	resource := &v1alpha1.ConsistencyGroup{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: map[string]string{managedBy: managedVal}}}
	err := k.client.Create(ctx, resource)
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil // the cache will tell
	case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, "NamespaceTerminating"):
		k.log.Debug("group has no resource: its namespace is not here", "group", groupName(key.Namespace, key.Name))
		return nil
	case err != nil:
		return fmt.Errorf("make ConsistencyGroup %s: %w", key, err)
	}
	k.forget(key)
	return nil
}

// ended removes the resource of a group without members, if it appeared by
// itself. One that a user made waits for members.
func (k *groupKeeper) ended(ctx context.Context, resource *v1alpha1.ConsistencyGroup) error {
	key := client.ObjectKeyFromObject(resource)
	k.forget(key)
	if resource.Labels[managedBy] == managedVal {
		uid := resource.UID
		err := k.client.Delete(ctx, resource, client.Preconditions{UID: &uid})
		return client.IgnoreNotFound(err)
	}
	status := v1alpha1.ConsistencyGroupStatus{ObservedGeneration: resource.Generation, Conditions: slices.Clone(resource.Status.Conditions)}
	meta.RemoveStatusCondition(&status.Conditions, v1alpha1.GroupReplicating)
	meta.RemoveStatusCondition(&status.Conditions, v1alpha1.GroupWindowAchieved)
	meta.RemoveStatusCondition(&status.Conditions, v1alpha1.GroupIntact)
	meta.RemoveStatusCondition(&status.Conditions, v1alpha1.GroupBackingSufficient)
	setCondition(&status.Conditions, metav1.Condition{Type: v1alpha1.GroupReady, Status: metav1.ConditionFalse, Reason: reasonNoMembers,
		Message:            "no claim is in this group yet: annotate one, its workload or its namespace with " + AnnotationGroup + ": " + resource.Name,
		ObservedGeneration: resource.Generation, LastTransitionTime: metav1.NewTime(k.clock.Now())})
	accepted := metav1.Condition{Type: v1alpha1.GroupSettingsAccepted, Status: metav1.ConditionTrue, Reason: reasonAccepted,
		ObservedGeneration: resource.Generation, LastTransitionTime: metav1.NewTime(k.clock.Now())}
	if chosen, err := settingsOf(&resource.Spec); err != nil {
		accepted.Status, accepted.Reason, accepted.Message = metav1.ConditionFalse, reasonRefused, err.Error()
	} else if err := mayBecome(chosen); err != nil {
		accepted.Status, accepted.Reason, accepted.Message = metav1.ConditionFalse, reasonRefused, err.Error()
	}
	setCondition(&status.Conditions, accepted)
	return k.write(ctx, resource, status)
}

// mayBecome checks settings with the defaults for what is open.
func mayBecome(chosen group.Settings) error {
	s := chosen.WithDefaults()
	return s.Validate()
}

// apply gives the group the resource's settings, once for each generation and
// again after it failed. A replica's are its primary's.
func (k *groupKeeper) apply(ctx context.Context, resource *v1alpha1.ConsistencyGroup, st group.State) application {
	key := client.ObjectKeyFromObject(resource)
	k.mu.Lock()
	last, ok := k.applied[key]
	k.mu.Unlock()
	now := application{uid: resource.UID, generation: resource.Generation}
	if st.Role == group.RoleReplica {
		k.forgetApplied(key) // what is chosen here comes into force with a failover
		return now
	}
	if ok && last.uid == now.uid && last.generation == now.generation && (last.refused == nil || errors.Is(last.refused, controller.ErrInvalid)) {
		return last
	}
	chosen, err := settingsOf(&resource.Spec)
	if err == nil {
		// Others are looked at after this one, whose engines may hang.
		choosing, cancel := context.WithTimeout(ctx, summaryTimeout)
		err = k.catalog.Choose(choosing, st.Name, chosen)
		cancel()
	}
	if err != nil {
		now.refused = err
		k.events.warn(resource, "SettingsRefused", "Configure", "%v", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.applied[key] = now
	return now
}

func (k *groupKeeper) forget(key types.NamespacedName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.applied, key)
	delete(k.written, key)
	delete(k.silent, key)
}

func (k *groupKeeper) forgetApplied(key types.NamespacedName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.applied, key)
}

// describe writes the status, if it is time to.
func (k *groupKeeper) describe(ctx context.Context, resource *v1alpha1.ConsistencyGroup, name string, applied application) error {
	asking, cancel := context.WithTimeout(ctx, summaryTimeout)
	defer cancel()
	summary, err := k.fleet.Summary(asking, name)
	if errors.Is(err, group.ErrNotFound) {
		return nil // it has just ended
	}
	now := k.clock.Now()
	key := client.ObjectKeyFromObject(resource)
	if err != nil {
		err = fmt.Errorf("describe group %s: %w", name, err)
	}
	if lasts := k.silence(key, now, err); err != nil && (lasts < silenceTolerated || summary.State.Name == "") {
		return err
	}
	v := &view{summary: summary, silent: err, now: now, generation: applied.generation, refused: applied.refused}
	if v.peerless, err = k.peerless(ctx, &summary); err != nil {
		return err
	}
	for _, volume := range k.fleet.Volumes() {
		if volume.Group == name && !volume.Retired && slices.Contains(summary.State.Members, volume.ID) {
			v.volumes = append(v.volumes, volume)
		}
	}
	status := statusOf(v, &resource.Status)
	k.mu.Lock()
	wait := !isUrgent(&resource.Status, &status) && now.Sub(k.written[key]) < advanceInterval
	k.mu.Unlock()
	if wait {
		return nil
	}
	old := resource.Status
	if err := k.write(ctx, resource, status); err != nil {
		return err
	}
	k.tell(ctx, resource, &old, &status, v.volumes)
	return nil
}

// peerless is why there is no site that a primary's records could be sent to; empty:
// there is one, or is to be none.
func (k *groupKeeper) peerless(ctx context.Context, s *groups.Summary) (string, error) {
	to := s.State.Settings.ReplicateTo
	if s.State.Role != group.RolePrimary || to == "" || s.Sending != nil {
		return "", nil
	}
	var site v1alpha1.Site
	err := k.client.Get(ctx, types.NamespacedName{Name: to}, &site)
	if apierrors.IsNotFound(err) {
		return fmt.Sprintf("there is no Site %s: make one", to), nil
	}
	if err != nil {
		return "", fmt.Errorf("read Site %s: %w", to, err)
	}
	c := meta.FindStatusCondition(site.Status.Conditions, v1alpha1.SiteConnected)
	if c != nil && c.Status == metav1.ConditionFalse && (c.Reason == reasonOwnSite || c.Reason == reasonNoCertificate) {
		return fmt.Sprintf("Site %s is no peer: %s", to, c.Message), nil
	}
	return "", nil
}

// silence notes whether a group's members have told of its points, and returns for how
// long they have not.
func (k *groupKeeper) silence(key types.NamespacedName, now time.Time, err error) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	since, ok := k.silent[key]
	switch {
	case err == nil:
		delete(k.silent, key)
		return 0
	case !ok:
		k.silent[key] = now
		return 0
	}
	return now.Sub(since)
}

// write replaces the status, unless it is the same.
func (k *groupKeeper) write(ctx context.Context, resource *v1alpha1.ConsistencyGroup, status v1alpha1.ConsistencyGroupStatus) error {
	if equality.Semantic.DeepEqual(resource.Status, status) {
		return nil
	}
	next := resource.DeepCopy()
	next.Status = status
	err := k.client.Status().Update(ctx, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // the cache is behind: it comes again
	}
	if err != nil {
		return fmt.Errorf("write status of ConsistencyGroup %s: %w", client.ObjectKeyFromObject(resource), err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written[client.ObjectKeyFromObject(resource)] = k.clock.Now()
	return nil
}

// tell makes events of what has changed between two statuses.
func (k *groupKeeper) tell(ctx context.Context, resource *v1alpha1.ConsistencyGroup, old, now *v1alpha1.ConsistencyGroupStatus, volumes []fleet.Volume) {
	for _, n := range newsOf(old, now) {
		k.events.tell(resource, n.kind, n.reason, n.action, "%s", n.text)
	}
	for _, n := range memberNews(old.Members, now.Members) {
		i := slices.IndexFunc(volumes, func(v fleet.Volume) bool { return v.ID.String() == n.volume })
		if i < 0 {
			continue
		}
		key, ok := claimOf(&volumes[i])
		if !ok {
			continue
		}
		if claim, err := k.claim(ctx, key); err == nil {
			k.events.tell(claim, n.kind, n.reason, n.action, "%s", n.text)
		}
	}
}
