package groups

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Select finds a recovery point; see group.Select. A number and a time may also mean
// one that is not listed any more, because it has left its tier of the history, for
// as long as all of its members can open it; Hold has them go on doing that. What is
// meant is found in outlines of the members' histories, or among what is pinned, and
// then read in full. What is pinned on a timeline that was left is meant by its pin alone. Where a volume does not answer that may hold its part of what is
// meant, nothing else is taken for it: group.ErrAway.
func (g *Groups) Select(ctx context.Context, name, at string) (group.Point, error) {
	st, listed, open, err := g.outline(ctx, name)
	if err != nil {
		return group.Point{}, err
	}
	var noPin error
	if strings.HasPrefix(at, "pin:") {
		pinned, err := g.pinnedPoints(ctx, st)
		if err != nil {
			return group.Point{}, err
		}
		point, err := group.Select(name, pinned, at)
		if err == nil {
			return point, nil
		}
		noPin = err
	}
	if err := g.checkKnown(name, listed, open, at); err != nil {
		return group.Point{}, err
	}
	found, err := group.Select(name, listed, at)
	number, notNumber := strconv.ParseUint(at, 10, 64)
	_, notTime := time.Parse(time.RFC3339Nano, at)
	from, to := found.Checkpoint, found.Checkpoint
	switch {
	case notNumber == nil:
		from, to = journal.CheckpointNumber(number), journal.CheckpointNumber(number)
	case err != nil && noPin != nil:
		return group.Point{}, noPin // names the pins that there are
	case err != nil:
		return group.Point{}, err
	case notTime == nil:
		to = nextListed(listed, &found)
	}
	near, open, failed := g.openableIn(ctx, st, from, to)
	if failed == nil {
		failed = g.checkKnown(name, near, open, at)
	}
	if failed != nil {
		return group.Point{}, failed
	}
	// Of a number that was taken twice the time says which.
	i := slices.IndexFunc(near, func(p group.Point) bool { return idOf(&p) == idOf(&found) })
	if i >= 0 && notTime != nil {
		return near[i], nil
	}
	if point, failed := group.Select(name, near, at); failed == nil && at != "latest" {
		return point, nil
	}
	if err == nil { // it is listed no more by now
		err = missing(name, at, listed, &found)
	}
	if notNumber == nil {
		err = g.nameLeft(ctx, st, journal.CheckpointNumber(number), err)
	}
	return group.Point{}, err
}

// nameLeft adds to the error that there is no point of a number which ones of it are
// pinned on timelines that were left.
func (g *Groups) nameLeft(ctx context.Context, st group.State, number journal.CheckpointNumber, err error) error {
	var none *group.NoPointError
	if !errors.As(err, &none) {
		return err
	}
	pinned, failed := g.pinnedPoints(ctx, st)
	if failed != nil {
		return failed
	}
	for _, p := range pinned {
		if p.Left && p.Checkpoint == number {
			none.Left = append(none.Left, p)
		}
	}
	return err
}

// nextListed is the number of the point behind one of a list; 0 behind the last.
func nextListed(listed []group.Point, p *group.Point) journal.CheckpointNumber {
	i := slices.IndexFunc(listed, func(q group.Point) bool { return idOf(&q) == idOf(p) })
	if i < 0 || i+1 == len(listed) {
		return 0
	}
	return max(p.Checkpoint, listed[i+1].Checkpoint)
}

// missing says that a point of a list is gone, and which of the others are nearest.
func missing(name, at string, listed []group.Point, gone *group.Point) error {
	e := &group.NoPointError{Group: name, Wanted: at, Existing: len(listed)}
	i := slices.IndexFunc(listed, func(q group.Point) bool { return idOf(&q) == idOf(gone) })
	if i < 0 {
		return e
	}
	e.Existing--
	for _, k := range []int{i - 1, i + 1} {
		if k >= 0 && k < len(listed) {
			e.Nearest = append(e.Nearest, listed[k])
		}
	}
	return e
}

// openableIn returns the points with numbers in [from, to] that all of their members
// can open, ascending, and what is not known of them; a to of 0 is no end.
func (g *Groups) openableIn(ctx context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.Point, doubt, error) {
	histories, err := g.cfg.Members.OpenableIn(ctx, st, from, to)
	if err != nil {
		return nil, doubt{}, err
	}
	return g.points(st, histories), doubtOf(st, histories), nil
}

// doubt is what is not known of a group's points because volumes do not answer.
type doubt struct {
	points []group.Point // see group.Undecided
	away   []journal.VolumeID
}

func doubtOf(st group.State, histories []group.History) doubt {
	d := doubt{points: group.Undecided(st.Name, histories, lacks(st, histories))}
	for _, h := range histories {
		if h.Away {
			d.away = append(d.away, h.Volume)
		}
	}
	return d
}

// checkKnown returns group.ErrAway where text would name another point of a group if what
// is in doubt were some. What a pin keeps is found by the pin alone.
func (g *Groups) checkKnown(name string, points []group.Point, d doubt, text string) error {
	if len(d.points) == 0 {
		return nil
	}
	p, err := group.Select(name, group.Merge(points, d.points), text)
	if err != nil || !slices.ContainsFunc(d.points, func(u group.Point) bool { return idOf(&u) == idOf(&p) }) {
		return nil
	}
	var away []string
	for _, id := range d.away {
		away = append(away, g.cfg.Members.Title(id))
	}
	return fmt.Errorf("group %s, recovery point %s: it may be checkpoint %d of %s, and there is no answer of %s: %w",
		name, text, p.Checkpoint, p.Time.Format(time.RFC3339), strings.Join(away, ", "), group.ErrAway)
}
