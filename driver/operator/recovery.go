package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
)

const (
	// shortestPause and longestPause bound the time between two looks at what a
	// recovery waits for.
	shortestPause = 100 * time.Millisecond
	longestPause  = time.Second
	// wakeTimeout bounds how long engines may take to run, and one operation on
	// a group with them.
	wakeTimeout = 2 * time.Minute
)

// Reasons of the condition Complete.
const (
	reasonUnderWay = "UnderWay"
	reasonDone     = "Done"
	reasonFailing  = "Failing" // it has failed, and workloads are being scaled back
	reasonFailed   = "Failed"
)

// recoverer carries out Recoveries. All that it remembers is in their status,
// which is written before each step that it is needed after.
type recoverer struct {
	// client reads the API server itself: a step that is taken again has to see
	// what the one before has done.
	client  client.Client
	scaler  scaler
	fleet   Fleet
	catalog Catalog
	driver  string
	events  events
	clock   clock.Clock
	log     *slog.Logger
}

// waiting says what a recovery waits for; the phase stays.
type waiting struct{ text string }

func (w waiting) Error() string { return w.text }

func waitFor(format string, args ...any) error { return waiting{fmt.Sprintf(format, args...)} }

// failing says why a recovery cannot be done.
type failing struct{ error }

func (f failing) Unwrap() error { return f.error }

func fail(format string, args ...any) error { return failing{fmt.Errorf(format, args...)} }

// Reconcile implements reconcile.Reconciler for a Recovery: it takes one phase
// and writes how that went.
func (r *recoverer) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var recovery v1alpha1.Recovery
	if err := r.client.Get(ctx, req.NamespacedName, &recovery); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if recovery.Status.Phase.Ended() || recovery.DeletionTimestamp != nil && !hasBegun(&recovery) {
		return reconcile.Result{}, r.letGo(ctx, &recovery)
	}
	if err := r.keep(ctx, &recovery); err != nil {
		return reconcile.Result{}, err
	}
	next := recovery.DeepCopy()
	err := r.step(ctx, next)
	var wait waiting
	var failed failing
	switch {
	case errors.As(err, &wait):
		next.Status.Message = wait.text
	case errors.As(err, &failed):
		r.failed(next, failed.error)
	case err != nil:
		// The engines, or the API server, do not answer: the same again.
		next.Status.Message = err.Error()
	case next.Status.Phase == recovery.Status.Phase && equality.Semantic.DeepEqual(next.Status, recovery.Status):
		return reconcile.Result{RequeueAfter: r.pause(&next.Status)}, nil
	}
	if werr := r.write(ctx, &recovery, next); werr != nil {
		return reconcile.Result{}, errors.Join(werr, unless(err, wait, failed))
	}
	switch {
	case next.Status.Phase.Ended():
		return reconcile.Result{}, r.letGo(ctx, next)
	case errors.As(err, &wait):
		return reconcile.Result{RequeueAfter: r.pause(&next.Status)}, nil
	case err != nil && !errors.As(err, &failed):
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: time.Nanosecond}, nil // the next phase
}

// underWay keeps a Recovery that is deleted until it has ended: its status is the
// only place that knows what was scaled down, and from which size.
const underWay = "lockstep.dev/under-way"

// keep has the recovery stay until letGo.
func (r *recoverer) keep(ctx context.Context, rec *v1alpha1.Recovery) error {
	if !controllerutil.AddFinalizer(rec, underWay) {
		return nil
	}
	if err := r.client.Update(ctx, rec); err != nil {
		return fmt.Errorf("keep Recovery %s: %w", client.ObjectKeyFromObject(rec), err)
	}
	return nil
}

// letGo lets a recovery that has ended, or has not begun, be deleted.
func (r *recoverer) letGo(ctx context.Context, rec *v1alpha1.Recovery) error {
	if !controllerutil.RemoveFinalizer(rec, underWay) {
		return nil
	}
	if rec.Spec.Action == v1alpha1.ActionRewind && rec.Status.Point != nil {
		r.fleet.Release(ctx, name(rec), holder(rec))
	}
	if err := r.client.Update(ctx, rec); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("let go of Recovery %s: %w", client.ObjectKeyFromObject(rec), err)
	}
	return nil
}

// pause is how long to wait before the next look: a tenth of what the phase has
// lasted, so that looking adds no more than that to it, and one that lasts is no
// burden.
func (r *recoverer) pause(s *v1alpha1.RecoveryStatus) time.Duration {
	lasted := r.clock.Now().Sub(s.Entered(s.Phase))
	return min(max(lasted/10, shortestPause), longestPause)
}

// unless returns err but for the two kinds that are no trouble of this controller.
func unless(err error, _ waiting, _ failing) error {
	var wait waiting
	var failed failing
	if errors.As(err, &wait) || errors.As(err, &failed) {
		return nil
	}
	return err
}

// step takes the present phase of a recovery and leaves it in the next one.
func (r *recoverer) step(ctx context.Context, rec *v1alpha1.Recovery) error {
	s := &rec.Status
	switch s.Phase {
	case "":
		now := metav1.NewTime(r.clock.Now().UTC().Truncate(time.Second))
		s.ObservedGeneration, s.StartTime = rec.Generation, &now
		r.enter(rec, v1alpha1.PhasePending)
		return nil
	case v1alpha1.PhasePending:
		return r.begin(ctx, rec)
	case v1alpha1.PhaseQuiescing:
		return r.quiesce(ctx, rec)
	case v1alpha1.PhaseDetaching:
		return r.detach(ctx, rec)
	case v1alpha1.PhaseRewinding:
		return r.rewind(ctx, rec)
	case v1alpha1.PhaseResuming:
		return r.resume(ctx, rec)
	case v1alpha1.PhaseFencing:
		return r.fence(ctx, rec)
	case v1alpha1.PhasePromoting:
		return r.promote(ctx, rec)
	case v1alpha1.PhasePublishing:
		return r.publish(ctx, rec)
	}
	return fail("phase %s is none that this controller knows", s.Phase)
}

// enter begins a phase.
func (r *recoverer) enter(rec *v1alpha1.Recovery, phase v1alpha1.RecoveryPhase) {
	s := &rec.Status
	s.Phase = phase
	r.noteEntry(s, phase)
	complete := metav1.Condition{Type: v1alpha1.RecoveryComplete, Status: metav1.ConditionUnknown, Reason: reasonUnderWay,
		ObservedGeneration: rec.Generation, LastTransitionTime: metav1.NewTime(r.clock.Now())}
	if old := meta.FindStatusCondition(s.Conditions, v1alpha1.RecoveryComplete); old != nil && old.Reason == reasonFailing {
		complete.Reason, complete.Message = old.Reason, old.Message // scaled back, it ends as failed
		s.Message = old.Message                                     // and not as what was in the way of that
	} else if phase != v1alpha1.PhaseFailed {
		s.Message = ""
	}
	if phase.Ended() {
		now := metav1.NewTime(r.clock.Now().UTC().Truncate(time.Second))
		s.CompletionTime = &now
		complete.Status, complete.Reason = metav1.ConditionTrue, reasonDone
		if phase == v1alpha1.PhaseFailed {
			complete.Status, complete.Reason, complete.Message = metav1.ConditionFalse, reasonFailed, s.Message
		}
	}
	setCondition(&s.Conditions, complete)
}

// noteEntry notes when a phase began. One that the controller stays in, because
// it died and took it again, is not entered anew: its status was not written.
func (r *recoverer) noteEntry(s *v1alpha1.RecoveryStatus, phase v1alpha1.RecoveryPhase) {
	entry := v1alpha1.PhaseEntry{Phase: phase, Time: microTime(r.clock.Now())}
	i := slices.IndexFunc(s.Phases, func(e v1alpha1.PhaseEntry) bool { return e.Phase == phase })
	if i < 0 {
		s.Phases = append(s.Phases, entry)
	} else {
		s.Phases[i] = entry
	}
}

// failed gives a recovery up. What was scaled down is scaled up again first.
func (r *recoverer) failed(rec *v1alpha1.Recovery, why error) {
	rec.Status.Message = why.Error()
	if slices.ContainsFunc(rec.Status.Workloads, func(w v1alpha1.ScaledWorkload) bool { return !w.Restored }) {
		setCondition(&rec.Status.Conditions, metav1.Condition{Type: v1alpha1.RecoveryComplete, Status: metav1.ConditionUnknown,
			Reason: reasonFailing, Message: why.Error(), ObservedGeneration: rec.Generation, LastTransitionTime: metav1.NewTime(r.clock.Now())})
		r.enter(rec, v1alpha1.PhaseResuming)
		return
	}
	r.enter(rec, v1alpha1.PhaseFailed)
}

func isFailing(rec *v1alpha1.Recovery) bool {
	c := meta.FindStatusCondition(rec.Status.Conditions, v1alpha1.RecoveryComplete)
	return c != nil && c.Reason == reasonFailing
}

// write saves the status. It fails if somebody has written it meanwhile: what
// was decided is then decided again.
func (r *recoverer) write(ctx context.Context, old, next *v1alpha1.Recovery) error {
	if equality.Semantic.DeepEqual(old.Status, next.Status) {
		return nil
	}
	if err := r.client.Status().Update(ctx, next); err != nil {
		return fmt.Errorf("write status of Recovery %s: %w", client.ObjectKeyFromObject(next), err)
	}
	if old.Status.Phase != next.Status.Phase && next.Status.Phase.Ended() {
		if next.Status.Phase == v1alpha1.PhaseFailed {
			r.events.warn(next, "Failed", string(next.Spec.Action), "%s", next.Status.Message)
		} else {
			r.events.note(next, "Completed", string(next.Spec.Action), "group %s", next.Spec.Group)
		}
	}
	return nil
}

// name is the group's name on every site.
func name(rec *v1alpha1.Recovery) string { return groupName(rec.Namespace, rec.Spec.Group) }

// state is the group of a recovery.
func (r *recoverer) state(rec *v1alpha1.Recovery) (group.State, bool) {
	for _, st := range r.fleet.States() {
		if st.Name == name(rec) {
			return st, true
		}
	}
	return group.State{}, false
}

// members are the volumes of a recovery's group.
func (r *recoverer) members(st group.State) []fleet.Volume {
	return slices.DeleteFunc(r.fleet.Volumes(), func(v fleet.Volume) bool { return !slices.Contains(st.Members, v.ID) })
}
