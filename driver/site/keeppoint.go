package site

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// The members of a replica are fed apart from each other. One that is ahead of the
// others, because their disk is full for example, keeps the newest recovery point that
// all of them have, also when it has no room for more without giving it up: it is what
// the group can be failed over to.

// keepPointEvery is the time between two looks at which point that is.
const keepPointEvery = time.Second

// keepPoints looks after that until ctx ends.
func (s *Site) keepPoints(ctx context.Context) {
	for {
		for _, st := range s.groups.States() {
			if err := s.keepPoint(ctx, st); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("the newest recovery point of a replica is not known", "group", st.Name, "error", err)
			}
		}
		timer := s.cfg.Clock.NewTimer(keepPointEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

// keepPoint has the members of a replica keep their part of its newest point, and those
// of a primary nothing: they make every point together. While there is none, or it is not
// known, they keep what they kept; and so do all while an operation is not finished, which
// may be about to return to what is older.
func (s *Site) keepPoint(ctx context.Context, st group.State) error {
	if st.Pending != nil {
		return nil
	}
	if st.Role != group.RoleReplica {
		for _, store := range (members{s}).openStores(st) {
			store.KeepPoint(journal.Position{}, 0)
		}
		return nil
	}
	if !s.allOpen(st) {
		return nil
	}
	newest, err := s.groups.NewestPoint(ctx, st.Name)
	if err != nil || newest == nil || !s.allOpen(st) {
		return err
	}
	for id, at := range newest.Members {
		if eng, err := s.engineOf(id); err == nil {
			eng.Store().KeepPoint(at, 0)
		}
	}
	return nil
}

// allOpen reports whether every store that members of a group have is open. Without one that
// is not the newest point would be one of before that member has joined, and the others
// would let go of what the group is to be failed over to when it is open again.
func (s *Site) allOpen(st group.State) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(st.Members, func(id journal.VolumeID) bool {
		v := s.volumes[id]
		return v != nil && v.record.Store != "" && v.eng == nil
	})
}

// keepAll has a replica's store that was just opened keep all that it has, until it is
// known which point is the newest; and any until its group's operation, if one was interrupted, is
// finished: what it held for that is held no more.
func (s *Site) keepAll(store *journal.Store, name string) {
	st, err := s.groups.State(name)
	if errors.Is(err, group.ErrNotFound) || st.Role != group.RoleReplica && st.Pending == nil {
		return
	}
	store.KeepPoint(store.Horizon(), 0)
}
