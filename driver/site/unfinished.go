package site

import (
	"context"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/journal"
)

// An operation that is written down is finished, whatever became of who asked for it. A
// member, or the site's database, may have had no room for it, and has some by now; until
// then the group takes no writes, and its devices wait.

// tendGroupsEvery is the time between two looks at operations that are not finished.
const tendGroupsEvery = 10 * time.Second

// tendGroups looks after them until ctx ends.
func (s *Site) tendGroups(ctx context.Context) {
	failed := map[string]string{}
	for {
		timer := s.cfg.Clock.NewTimer(tendGroupsEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
		s.finishOperations(ctx, failed)
	}
}

// TendGroups finishes the operations of groups that could not be finished before. It is
// called from time to time by itself.
func (s *Site) TendGroups(ctx context.Context) { s.finishOperations(ctx, map[string]string{}) }

// finishOperations is TendGroups; failed is what groups failed with, so that it is told once.
func (s *Site) finishOperations(ctx context.Context, failed map[string]string) {
	for _, st := range s.groups.States() {
		if !s.groups.IsUnfinished(st.Name) || !s.areWell(st.Members) {
			continue // of a member that is not, its reopening sees to it
		}
		err := s.finishOperation(ctx, st.Name)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			delete(failed, st.Name)
		} else if failed[st.Name] != err.Error() {
			failed[st.Name] = err.Error()
			s.cfg.Log.Error("an operation is still not finished; it is tried again", "group", st.Name, "operation", st.Pending.Kind, "error", err)
		}
	}
}

func (s *Site) finishOperation(ctx context.Context, name string) error {
	unlock, err := s.locks.Lock(ctx, groups.Key(name))
	if err != nil {
		return err
	}
	defer unlock()
	if !s.groups.IsUnfinished(name) {
		return nil
	}
	return s.groups.Refresh(ctx, name)
}

// areWell reports whether the stores of volumes, but of absent ones, are open, and have not stopped.
func (s *Site) areWell(ids []journal.VolumeID) bool {
	return !slices.ContainsFunc(s.present(ids), func(id journal.VolumeID) bool {
		v, err := s.Volume(id)
		return err != nil || !v.Open || v.Err != nil
	})
}
