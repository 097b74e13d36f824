package fleet

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// MoveVolume makes a volume, attached or not, a member of another group, which
// is made with settings if need be. One commit does it; it may be repeated. The
// points of the group that it leaves stay restorable, and both groups take a
// point right after, as far as their members answer. Errors are those of
// groups.Move, ErrNotFound, and ErrNoEngine where a member that has to take
// part in checkpoints does not answer within Config.MoveWait: nothing has changed then.
func (f *Fleet) MoveVolume(ctx context.Context, id journal.VolumeID, to string, settings group.Settings) error {
	unlock, err := f.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	v, err := f.volumeOf(id)
	if err != nil {
		return err
	}
	r := f.recordOf(v)
	if r.Retired {
		return fmt.Errorf("volume %s was deleted: %w", id, ErrNotFound)
	}
	if r.Group == to {
		return nil
	}
	settings = settings.WithDefaults()
	if err := settings.Validate(); err != nil {
		return fmt.Errorf("move %s to group %s: %w", r.title(), to, err)
	}
	st, err := f.groups.State(to)
	if r.Attach != nil || err == nil && (members{f}).Serving(st) {
		// All engines of the new group are there first: until they are, it
		// would take no points.
		release, err := f.wakeFor(ctx, to, append(f.inGroup(to, false), v))
		if err != nil {
			return fmt.Errorf("move %s to group %s: %w", r.title(), to, err)
		}
		defer release()
	}
	if err := f.move(ctx, v, r.Group, to, settings); err != nil {
		return err
	}
	f.follow(v) // its budget is the new group's
	for _, name := range []string{r.Group, to} {
		f.pokeGroup(name)
		if _, _, err := f.groups.TakePoint(ctx, name, ""); err != nil {
			f.cfg.Log.Info("a volume has moved; its group takes its next point later", "volume", id, "group", name, "error", err)
		}
	}
	return nil
}

// wakeFor is wake within Config.MoveWait.
func (f *Fleet) wakeFor(ctx context.Context, name string, volumes []*volume) (release func(), err error) {
	err = within(ctx, f.cfg.MoveWait, func(ctx context.Context) (err error) {
		release, err = f.wake(ctx, name, volumes)
		return err
	})
	return release, err
}

// move changes the membership, with the keys of both groups held.
func (f *Fleet) move(ctx context.Context, v *volume, from, to string, settings group.Settings) error {
	unlock, err := f.locks.Lock(ctx, groupKey(from), groupKey(to))
	if err != nil {
		return err
	}
	defer unlock()
	r := f.recordOf(v)
	return f.groups.Move(ctx, groups.Move{Volume: r.ID, From: from, To: to, Settings: settings, Term: group.Term(r.Orders.Term),
		Commit: func(commit func(func(kv.Tx) error) error) error { return f.commitMove(ctx, v, to, commit) }})
}

// commitMove saves the volume's record together with the groups' states.
func (f *Fleet) commitMove(ctx context.Context, v *volume, to string, commit func(func(kv.Tx) error) error) error {
	unlock, err := f.locks.Lock(ctx, turnKey(f.recordOf(v).ID))
	if err != nil {
		return err
	}
	defer unlock()
	next := f.recordOf(v)
	next.enter(to)
	value, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("save record of volume %s: %w", next.ID, err)
	}
	if err := commit(func(tx kv.Tx) error { return tx.Put(bucketVolumes, next.ID[:], value) }); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.record = next
	v.poke()
	return nil
}
