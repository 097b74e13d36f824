package group

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// History is what a member knows of its past.
type History struct {
	Volume journal.VolumeID
	// Checkpoints are the durable ones inside the horizon, oldest first.
	Checkpoints []journal.Checkpoint
	// Left are those that a pin keeps on timelines that were left. Only who is asked for
	// what is pinned tells them.
	Left []journal.Checkpoint
	Pins map[string]journal.Position
	// Away: the store could not be asked, so that it may hold more than this says.
	Away bool
}

// Points derives the recovery points of a group from its members, oldest
// first: the checkpoints that every member of the group at that moment holds
// durably and can still open. Volumes that were members then and have been
// deleted since, for which lacks is true (see State.Lacks), are not asked for; of any other one
// the store must be among those given.
//
// A number may have been taken twice, by a stale primary and its successor, or
// by an earlier group of the name whose volumes are still there: a checkpoint is
// its number and its time.
//
// One of which a member has its part on a timeline that was left is Left: the others may
// have stayed as they are, as one does that joined later than where a rewind went.
func Points(name string, members []History, lacks func(id journal.VolumeID, at time.Time, pinned bool) bool) []Point {
	pinned := map[journal.VolumeID]map[journal.Position][]string{}
	for _, m := range members {
		pinned[m.Volume] = pinsByPosition(m.Pins)
	}
	var points []Point
	for _, copies := range copiesOf(name, members) {
		if p, ok := pointOf(copies, lacks); ok {
			for id, pos := range p.Members {
				p.Pins = append(p.Pins, pinned[id][pos]...)
			}
			slices.Sort(p.Pins)
			p.Pins = slices.Compact(p.Pins)
			points = append(points, p)
		}
	}
	sortPoints(points)
	return points
}

// Undecided returns, ascending, what would be recovery points of a group if the volumes
// that are away hold their parts of them, which is not known. Members are those that hold
// theirs.
func Undecided(name string, members []History, lacks func(id journal.VolumeID, at time.Time, pinned bool) bool) []Point {
	away := map[journal.VolumeID]bool{}
	for _, m := range members {
		if m.Away {
			away[m.Volume] = true
		}
	}
	if len(away) == 0 {
		return nil
	}
	var points []Point
	for _, copies := range copiesOf(name, members) {
		if _, decided := pointOf(copies, lacks); decided {
			continue
		}
		if p, ok := pointOf(copies, func(id journal.VolumeID, at time.Time, pinned bool) bool { return away[id] || lacks(id, at, pinned) }); ok {
			points = append(points, p)
		}
	}
	sortPoints(points)
	return points
}

// Merge returns the points of two lists that are ascending as one.
func Merge(a, b []Point) []Point {
	all := slices.Concat(a, b)
	sortPoints(all)
	return all
}

func sortPoints(points []Point) {
	slices.SortFunc(points, func(a, b Point) int {
		return cmp.Or(cmp.Compare(a.Checkpoint, b.Checkpoint), a.Time.Compare(b.Time))
	})
}

// identity is what a checkpoint is known by.
type identity struct {
	number journal.CheckpointNumber
	time   int64
}

// copiesOf are a group's checkpoints as the members hold them.
func copiesOf(name string, members []History) map[identity][]heldCheckpoint {
	held := map[identity][]heldCheckpoint{}
	for _, m := range members {
		pins := pinsByPosition(m.Pins)
		hold := func(checkpoints []journal.Checkpoint, left bool) {
			for _, c := range checkpoints {
				if c.Group == name {
					key := identity{c.Number, c.Time.UnixNano()}
					held[key] = append(held[key], heldCheckpoint{c, m.Volume, left, len(pins[c.Position]) > 0})
				}
			}
		}
		hold(m.Checkpoints, false)
		hold(m.Left, true)
	}
	return held
}

// heldCheckpoint is a checkpoint as one member holds it.
type heldCheckpoint struct {
	journal.Checkpoint
	holder journal.VolumeID
	left   bool
	pinned bool // there
}

// pointOf checks that all who were members, and were not deleted, hold the same
// checkpoint.
func pointOf(copies []heldCheckpoint, lacks func(id journal.VolumeID, at time.Time, pinned bool) bool) (Point, bool) {
	first := copies[0]
	p := Point{Checkpoint: first.Number, Time: first.Time, ValidUntil: first.Time, Members: make(map[journal.VolumeID]journal.Position, len(copies))}
	pinned := false
	for _, c := range copies {
		if !slices.Equal(c.Members, first.Members) {
			return Point{}, false // not one cut
		}
		p.Members[c.holder] = c.Position
		p.Left, pinned = p.Left || c.left, pinned || c.pinned
	}
	for _, id := range first.Members {
		if _, ok := p.Members[id]; !ok && !lacks(id, first.Time, pinned) {
			return Point{}, false
		}
	}
	return p, true
}

func pinsByPosition(pins map[string]journal.Position) map[journal.Position][]string {
	by := make(map[journal.Position][]string, len(pins))
	for name, pos := range pins {
		by[pos] = append(by[pos], name)
	}
	return by
}

// pinSelector begins a text that names a point by its pin.
const pinSelector = "pin:"

// Select finds the point that text names among points, which are ascending:
// "latest", a checkpoint number, an RFC 3339 time (the newest point not after
// it), or "pin:NAME". ErrBadSelector, or a *NoPointError.
func Select(name string, points []Point, text string) (Point, error) {
	missing := func(at int) (Point, error) {
		e := &NoPointError{Group: name, Wanted: text, Existing: len(points)}
		for _, i := range []int{at - 1, at} {
			if i >= 0 && i < len(points) {
				e.Nearest = append(e.Nearest, points[i])
			}
		}
		return Point{}, e
	}
	if text == "latest" {
		if len(points) == 0 {
			return missing(0)
		}
		return points[len(points)-1], nil
	}
	if pin, ok := strings.CutPrefix(text, pinSelector); ok {
		e := &NoPointError{Group: name, Wanted: text, Existing: len(points)}
		for _, p := range points {
			if slices.Contains(p.Pins, pin) {
				return p, nil
			}
			e.Pins = append(e.Pins, p.Pins...)
		}
		slices.Sort(e.Pins)
		return Point{}, e
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		i, found := slices.BinarySearchFunc(points, journal.CheckpointNumber(n), func(p Point, n journal.CheckpointNumber) int {
			return cmp.Compare(p.Checkpoint, n)
		})
		if !found {
			return missing(i)
		}
		return points[i], nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return Point{}, fmt.Errorf("recovery point %q: %w", text, ErrBadSelector)
	}
	i, _ := slices.BinarySearchFunc(points, at, func(p Point, at time.Time) int { return p.Time.Compare(at) })
	if i < len(points) && points[i].Time.Equal(at) {
		return points[i], nil
	}
	if i == 0 {
		return missing(0)
	}
	return points[i-1], nil
}
