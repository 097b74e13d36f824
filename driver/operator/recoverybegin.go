package operator

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/replication"
)

// begin waits for the group, checks that the action is possible, and chooses the
// point, once: what is done afterwards is done to that one.
func (r *recoverer) begin(ctx context.Context, rec *v1alpha1.Recovery) error {
	if err := r.turn(ctx, rec); err != nil {
		return err
	}
	st, ok := r.state(rec)
	if !ok {
		if problems := validation.IsDNS1123Subdomain(rec.Spec.Group); len(problems) > 0 { // a claim's name, if nobody has named the group
			return fail("no group can have the name %q: %s", rec.Spec.Group, strings.Join(problems, "; "))
		}
		if n := len(name(rec)); n > replication.MaxNameBytes {
			return fail("no group can have that name: with its namespace it has %d bytes, and may have %d", n, replication.MaxNameBytes)
		}
		return waitFor("this cluster has no group %s yet", rec.Spec.Group)
	}
	if st.Pending != nil {
		return waitFor("group %s is in the midst of a %s", rec.Spec.Group, st.Pending.Kind)
	}
	if rec.Spec.Action == v1alpha1.ActionFailover {
		return r.beginFailover(ctx, rec, st)
	}
	if st.Role != group.RolePrimary {
		return fail("site %s is primary for group %s: fail over to this cluster first", st.Source, rec.Spec.Group)
	}
	if rec.Spec.Action == v1alpha1.ActionRewind {
		return r.beginRewind(ctx, rec, st)
	}
	// The group may have been rewound no more because a commit that this
	// controller did not live to tell of was done.
	if st.Rewind == nil && rec.Status.Point != nil && rec.Spec.Action == v1alpha1.ActionCommit {
		r.enter(rec, v1alpha1.PhaseCompleted)
		return nil
	}
	if st.Rewind == nil {
		return fail("group %s: %w", rec.Spec.Group, group.ErrNoRewind)
	}
	if rec.Spec.Action == v1alpha1.ActionUndo {
		rec.Status.Point, rec.Status.Before = pointOf(&st.Rewind.From), pointOf(&st.Rewind.To)
		r.enter(rec, v1alpha1.PhaseQuiescing)
		return nil
	}
	return r.commit(ctx, rec, st)
}

// turn makes recoveries of one group wait for each other, in the order in which
// they were made.
func (r *recoverer) turn(ctx context.Context, rec *v1alpha1.Recovery) error {
	var all v1alpha1.RecoveryList
	if err := r.client.List(ctx, &all, client.InNamespace(rec.Namespace)); err != nil {
		return fmt.Errorf("list recoveries of namespace %s: %w", rec.Namespace, err)
	}
	for i := range all.Items {
		other := &all.Items[i]
		if other.UID == rec.UID || other.Spec.Group != rec.Spec.Group || other.Status.Phase.Ended() {
			continue
		}
		if hasBegun(other) || isBefore(other, rec) {
			return waitFor("Recovery %s of the group is not done yet", other.Name)
		}
	}
	return nil
}

// hasBegun reports whether a recovery is past the point where it waits.
func hasBegun(rec *v1alpha1.Recovery) bool {
	return rec.Status.Phase != "" && rec.Status.Phase != v1alpha1.PhasePending
}

func isBefore(a, b *v1alpha1.Recovery) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

func (r *recoverer) beginRewind(ctx context.Context, rec *v1alpha1.Recovery, st group.State) error {
	if st.Rewind != nil {
		return fail("group %s is rewound to checkpoint %d since %s: undo or commit that first: %w", rec.Spec.Group, st.Rewind.To.Checkpoint,
			st.Rewind.Started.UTC().Format(time.RFC3339), group.ErrRewindOpen)
	}
	point, err := r.choose(ctx, rec, rec.Spec.At)
	if err != nil {
		return err
	}
	rec.Status.Point = pointOf(&point)
	r.enter(rec, v1alpha1.PhaseQuiescing)
	return nil
}

// choose finds the point that is meant, and has it held until the recovery has ended: it
// may take minutes until what uses the group has stopped. The error of one that does
// not exist names the nearest ones.
func (r *recoverer) choose(ctx context.Context, rec *v1alpha1.Recovery, at string) (group.Point, error) {
	waking, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	rest, err := r.fleet.Wake(waking, name(rec), true)
	if err != nil {
		return group.Point{}, fmt.Errorf("start the engines of group %s: %w", rec.Spec.Group, err)
	}
	defer rest()
	point, _, err := r.fleet.Hold(waking, name(rec), at, holder(rec))
	if errors.Is(err, group.ErrNoPoint) || errors.Is(err, group.ErrBadSelector) {
		return point, failing{err}
	}
	return point, err
}

// holder is the name by which a recovery holds its point.
func holder(rec *v1alpha1.Recovery) string { return "recovery:" + string(rec.UID) }

// commit gives up the way back. The point is in the status before, by which a
// commit that was done is told from a rewind that never was.
func (r *recoverer) commit(ctx context.Context, rec *v1alpha1.Recovery, st group.State) error {
	if rec.Status.Point == nil {
		rec.Status.Point = pointOf(&st.Rewind.To)
		return nil
	}
	return r.awake(ctx, rec, false, func(ctx context.Context) error {
		_, err := r.fleet.CommitRewind(ctx, name(rec), false)
		if err != nil && !errors.Is(err, group.ErrNoRewind) {
			return err
		}
		r.enter(rec, v1alpha1.PhaseCompleted)
		return nil
	})
}

// atPoint runs an operation that chooses a point with the group's engines there, and
// those of volumes that have left the group if the point may be theirs, too: nothing else
// is to wait for one of these.
func (r *recoverer) atPoint(ctx context.Context, rec *v1alpha1.Recovery, fn func(context.Context) error) error {
	err := r.awake(ctx, rec, false, fn)
	if errors.Is(err, group.ErrAway) {
		err = r.awake(ctx, rec, true, fn)
	}
	return err
}

// awake runs an operation on the group with its engines there, and where its past is
// wanted with those of the volumes that have left it.
func (r *recoverer) awake(ctx context.Context, rec *v1alpha1.Recovery, past bool, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	release, err := r.fleet.Wake(ctx, name(rec), past)
	if err != nil {
		return fmt.Errorf("start the engines of group %s: %w", rec.Spec.Group, err)
	}
	defer release()
	return fn(ctx)
}

func checkpointOf(p *v1alpha1.RecoveryPoint) string { return strconv.FormatInt(p.Checkpoint, 10) }
