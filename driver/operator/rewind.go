package operator

import (
	"context"
	"errors"

	"github.com/lockstep-csi/lockstep/api/v1alpha1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
)

// rewind forks the members, unless an earlier step did and was not told of.
func (r *recoverer) rewind(ctx context.Context, rec *v1alpha1.Recovery) error {
	st, ok := r.state(rec)
	if !ok {
		return fail("group %s has ended", rec.Spec.Group)
	}
	var err error
	if rec.Spec.Action == v1alpha1.ActionUndo {
		err = r.undo(ctx, rec, st)
	} else {
		err = r.goBack(ctx, rec, st)
	}
	switch {
	case err == nil:
		r.enter(rec, v1alpha1.PhaseResuming)
		return nil
	case errors.Is(err, groups.ErrInUse):
		r.enter(rec, v1alpha1.PhaseDetaching) // somebody was faster
		return waitFor("%v", err)
	case errors.Is(err, group.ErrNoPoint), errors.Is(err, group.ErrRole), errors.Is(err, group.ErrRewindOpen):
		return failing{err}
	}
	return err
}

func (r *recoverer) goBack(ctx context.Context, rec *v1alpha1.Recovery, st group.State) error {
	done := st.Rewind
	if done == nil {
		err := r.atPoint(ctx, rec, func(ctx context.Context) error {
			// What was begun before a crash is finished by now.
			if now, ok := r.state(rec); ok && now.Rewind != nil {
				done = now.Rewind
				return nil
			}
			rewind, err := r.fleet.StartRewind(ctx, name(rec), checkpointOf(rec.Status.Point), false)
			done = &rewind
			return err
		})
		if err != nil {
			return err
		}
	}
	// There was none when this one was begun, and recoveries take turns: it is
	// this one's, or was made past them.
	if int64(done.To.Checkpoint) != rec.Status.Point.Checkpoint {
		return fail("group %s was rewound to checkpoint %d meanwhile: %w", rec.Spec.Group, done.To.Checkpoint, group.ErrRewindOpen)
	}
	rec.Status.Before = pointOf(&done.From)
	return nil
}

func (r *recoverer) undo(ctx context.Context, rec *v1alpha1.Recovery, st group.State) error {
	if st.Rewind == nil && st.Pending == nil {
		return nil // it was there when this one was begun
	}
	return r.awake(ctx, rec, false, func(ctx context.Context) error {
		_, err := r.fleet.UndoRewind(ctx, name(rec), false)
		if errors.Is(err, group.ErrNoRewind) {
			return nil
		}
		return err
	})
}
