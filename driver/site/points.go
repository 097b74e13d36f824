package site

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Points returns the recovery points of a group on this site, oldest first.
func (s *Site) Points(name string) ([]group.Point, error) {
	st, err := s.reg.Get(name)
	if err != nil {
		return nil, err
	}
	return s.pointsOf(st), nil
}

func (s *Site) pointsOf(st group.State) []group.Point {
	quiet, number := time.Time{}, journal.CheckpointNumber(0)
	if r := s.runningOf(st.Name); r != nil {
		if r.coord != nil {
			quiet, number = r.coord.QuietUntil(), r.coord.Last()
		} else {
			s.mu.Lock()
			quiet, number = r.announced.ValidUntil, r.announced.NewestCheckpoint
			s.mu.Unlock()
		}
	}
	exists := s.exists
	if st.Role == group.RoleReplica {
		// A member that a replica does not know has not been announced yet;
		// only the primary can tell that it was deleted. Without it the
		// checkpoint is no recovery point.
		exists = func(journal.VolumeID) bool { return true }
	}
	points := group.Points(st.Name, s.histories(st), exists)
	// Only the newest checkpoint of all can still describe a later moment.
	if n := len(points); n > 0 && points[n-1].Checkpoint == number && quiet.After(points[n-1].Time) {
		points[n-1].ValidUntil = quiet
	}
	return points
}

// exists reports whether the site knows the volume, with a store or without.
func (s *Site) exists(id journal.VolumeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.volumes[id]
	return ok
}

// Select finds a recovery point; see group.Select.
func (s *Site) Select(name, at string) (group.Point, error) {
	points, err := s.Points(name)
	if err != nil {
		return group.Point{}, err
	}
	return group.Select(name, points, at)
}

// TakePoint takes a checkpoint now; with a pin it is kept under that name.
// The same pin again returns the point that it keeps.
func (s *Site) TakePoint(ctx context.Context, name, pin string) (group.Point, time.Duration, error) {
	if pin != "" {
		point, err := s.PinPoint(ctx, name, pin, "")
		return point, 0, err
	}
	return s.take(ctx, name)
}

// take has the group's coordinator take a checkpoint.
func (s *Site) take(ctx context.Context, name string) (group.Point, time.Duration, error) {
	coord, err := s.coordinatorOf(name)
	if err != nil {
		return group.Point{}, 0, err
	}
	taken, err := coord.Take(ctx)
	if err != nil {
		return group.Point{}, 0, err
	}
	return group.Point{Checkpoint: taken.Number, Time: taken.Time, ValidUntil: taken.Time, Members: taken.Positions}, taken.Stall, nil
}

// PinPoint keeps a recovery point under a name: the one that at selects, or
// with an empty at a new checkpoint. The same name again returns the same
// point, also if an earlier call pinned only some of the members.
func (s *Site) PinPoint(ctx context.Context, name, pin, at string) (group.Point, error) {
	unlock, err := s.locks.Lock(ctx, "pin/"+pin)
	if err != nil {
		return group.Point{}, err
	}
	defer unlock()
	point, err := s.Select(name, "pin:"+pin)
	switch {
	case err == nil:
	case at != "":
		point, err = s.Select(name, at)
	default:
		point, _, err = s.take(ctx, name)
	}
	if err != nil {
		return group.Point{}, err
	}
	var pinning errgroup.Group
	for id, pos := range point.Members {
		pinning.Go(func() error {
			eng, err := s.engineOf(id)
			if err != nil {
				return err
			}
			return eng.Store().Pin(pin, pos)
		})
	}
	return point, pinning.Wait()
}

// UnpinPoint drops a pin from every store that has it. No error if none has.
func (s *Site) UnpinPoint(ctx context.Context, pin string) error {
	unlock, err := s.locks.Lock(ctx, "pin/"+pin)
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	var holders []*journal.Store
	for _, v := range s.volumes {
		if v.eng != nil {
			if _, ok := v.store().Pins()[pin]; ok {
				holders = append(holders, v.store())
			}
		}
	}
	s.mu.Unlock()
	for _, store := range holders {
		if err := store.Unpin(pin); err != nil {
			return fmt.Errorf("volume %s: %w", store.Volume(), err)
		}
	}
	return nil
}
