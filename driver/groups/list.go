package groups

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// ListedPoint is a recovery point as a list shows it.
type ListedPoint struct {
	Checkpoint       journal.CheckpointNumber
	Time, ValidUntil time.Time
	Pins             []string // ascending
	Members          int
	// Left is where the members have it, if it is on a timeline that was left; else nil.
	Left map[journal.VolumeID]journal.Position
}

// pointID is what a point is known by; see group.Points.
type pointID struct {
	number journal.CheckpointNumber
	time   int64
}

func idOf(p *group.Point) pointID { return pointID{p.Checkpoint, p.Time.UnixNano()} }

// ListPoints lists recovery points whose times are in [from, to], newest first and
// at most limit; a zero time leaves an end open. total is how many there are
// without the limit. Those that are pinned on a timeline that was left are among them, marked.
// group.ErrNotFound, as for Points. Members send outlines of their histories, not these.
func (g *Groups) ListPoints(ctx context.Context, name string, from, to time.Time, limit int) (listed []ListedPoint, total int, err error) {
	st, points, _, err := g.outline(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	pinned, err := g.pinnedPoints(ctx, st)
	if err != nil {
		return nil, 0, err
	}
	present := map[pointID]bool{}
	for i := range points {
		present[idOf(&points[i])] = true
	}
	pins := map[pointID][]string{}
	var left []group.Point
	for i := range pinned {
		p := &pinned[i]
		pins[idOf(p)] = p.Pins
		if p.Left && !present[idOf(p)] { // it was not left before the outlines came
			left = append(left, *p)
		}
	}
	for _, p := range slices.Backward(group.Merge(points, left)) {
		if !from.IsZero() && p.Time.Before(from) || !to.IsZero() && p.Time.After(to) {
			continue
		}
		if total++; len(listed) < limit {
			l := ListedPoint{Checkpoint: p.Checkpoint, Time: p.Time, ValidUntil: p.ValidUntil, Pins: pins[idOf(&p)], Members: len(p.Members)}
			if p.Left {
				l.Left = p.Members
			}
			listed = append(listed, l)
		}
	}
	return listed, total, nil
}

// outline is all recovery points of a group, oldest first, of which the positions
// may be missing and the pins are, and what is not known of them. group.ErrNotFound, as
// for Points.
func (g *Groups) outline(ctx context.Context, name string) (st group.State, points []group.Point, open doubt, err error) {
	st, unknown := g.reg.Get(name)
	if errors.Is(unknown, group.ErrNotFound) {
		st = group.State{Name: name} // volumes that have moved may hold points of it
	} else if unknown != nil {
		return st, nil, doubt{}, unknown
	}
	histories, err := g.cfg.Members.Outlines(ctx, st)
	if err != nil {
		return st, nil, doubt{}, err
	}
	points, open = g.points(st, histories), doubtOf(st, histories)
	if unknown != nil && len(points)+len(open.points) == 0 {
		return st, nil, doubt{}, unknown
	}
	return st, points, open, nil
}

// PinnedPoints returns those recovery points of a group that a pin keeps, oldest
// first, also on timelines that were left. group.ErrNotFound.
func (g *Groups) PinnedPoints(ctx context.Context, name string) ([]group.Point, error) {
	st, err := g.reg.Get(name)
	if err != nil {
		return nil, err
	}
	return g.pinnedPoints(ctx, st)
}

// pinnedPoints asks each member for the checkpoints that its own pins keep, and all
// of them for those of which some members have no pin: a pin that was interrupted.
func (g *Groups) pinnedPoints(ctx context.Context, st group.State) ([]group.Point, error) {
	histories, err := g.cfg.Members.Pinned(ctx, st)
	if err != nil {
		return nil, err
	}
	// A volume that was removed and brought back tells only what is pinned on it: of what was not left all are asked below
	// whether it holds its part. On timelines that were left there is nothing but what is pinned.
	without := st
	without.Removed = nil
	points := slices.DeleteFunc(g.points(without, histories), func(p group.Point) bool { return len(p.Pins) == 0 })
	known := map[pointID]bool{}
	for i := range points {
		known[idOf(&points[i])] = true
	}
	for _, p := range g.points(st, histories) {
		if p.Left && len(p.Pins) > 0 && !known[idOf(&p)] {
			points, known[idOf(&p)] = append(points, p), true
		}
	}
	var some []journal.CheckpointNumber
	for _, h := range histories {
		for _, c := range h.Checkpoints {
			if isPinnedAt(h.Pins, c.Position) && !known[pointID{c.Number, c.Time.UnixNano()}] {
				some = append(some, c.Number)
			}
		}
	}
	slices.Sort(some)
	for _, number := range slices.Compact(some) {
		more, err := g.pointsIn(ctx, st, number, number)
		if err != nil {
			return nil, err
		}
		for _, p := range more {
			if len(p.Pins) > 0 && !known[idOf(&p)] {
				points = append(points, p)
			}
		}
	}
	slices.SortFunc(points, func(a, b group.Point) int { return a.Time.Compare(b.Time) })
	return points, nil
}

func isPinnedAt(pins map[string]journal.Position, at journal.Position) bool {
	for _, pinned := range pins {
		if pinned == at {
			return true
		}
	}
	return false
}
