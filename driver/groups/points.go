package groups

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Points returns the recovery points of a group on this site, oldest first.
// Those of a group that has ended are there as long as a volume that has moved
// to another group holds them. group.ErrNotFound.
func (g *Groups) Points(ctx context.Context, name string) ([]group.Point, error) {
	st, err := g.reg.Get(name)
	if errors.Is(err, group.ErrNotFound) {
		if points, failed := g.pointsOf(ctx, group.State{Name: name}); failed != nil || len(points) > 0 {
			return points, failed
		}
	}
	if err != nil {
		return nil, err
	}
	return g.pointsOf(ctx, st)
}

func (g *Groups) pointsOf(ctx context.Context, st group.State) ([]group.Point, error) {
	return g.pointsIn(ctx, st, 0, 0)
}

// pointsIn returns the points with numbers in [from, to]; a to of 0 is no end.
func (g *Groups) pointsIn(ctx context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.Point, error) {
	histories, err := g.histories(ctx, st, from, to)
	if err != nil {
		return nil, err
	}
	return g.points(st, histories), nil
}

// points derives those of a group from histories, ascending.
func (g *Groups) points(st group.State, histories []group.History) []group.Point {
	points := group.Points(st.Name, histories, lacks(st, histories))
	// Only the newest checkpoint of all can still describe a later moment.
	quiet, number := g.quiet(st.Name)
	for i := range slices.Backward(points) {
		if p := &points[i]; !p.Left {
			if p.Checkpoint == number && quiet.After(p.Time) {
				p.ValidUntil = quiet
			}
			break
		}
	}
	return points
}

// lacks is the State.Lacks of a group; one that is away and was brought back may hold what it does not tell.
func lacks(st group.State, histories []group.History) func(journal.VolumeID, time.Time, bool) bool {
	away := map[journal.VolumeID]bool{}
	for _, h := range histories {
		away[h.Volume] = h.Away
	}
	return func(id journal.VolumeID, at time.Time, pinned bool) bool {
		return st.Lacks(id, at, pinned && !away[id])
	}
}

func (g *Groups) histories(ctx context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.History, error) {
	if from == 0 && to == 0 {
		return g.cfg.Members.Histories(ctx, st)
	}
	return g.cfg.Members.HistoriesIn(ctx, st, from, to)
}

// quiet is until when nothing changed since the newest checkpoint.
func (g *Groups) quiet(name string) (until time.Time, since journal.CheckpointNumber) {
	r := g.runningOf(name)
	if r == nil {
		return time.Time{}, 0
	}
	if r.coord != nil {
		return r.coord.QuietUntil(), r.coord.Last()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.announced.ValidUntil, r.announced.NewestCheckpoint
}

// ErrPinCompleted means that no point was taken, and that a pin of the name, which an
// earlier call had left on some members only, is on all of them now. It is a journal.ErrPinExists.
var ErrPinCompleted error = pinCompleted{}

type pinCompleted struct{}

func (pinCompleted) Error() string { return "an earlier command had pinned only some of the volumes" }

func (pinCompleted) Is(target error) bool { return target == journal.ErrPinExists }

// TakePoint takes a checkpoint now; with a pin it is kept under that name. A pin that
// is there already keeps what it keeps: that point is returned with
// journal.ErrPinExists, or ErrPinCompleted, so that nobody takes it for one of now. stall is how long
// writes were held.
func (g *Groups) TakePoint(ctx context.Context, name, pin string) (point group.Point, stall time.Duration, err error) {
	if pin == "" {
		return g.take(ctx, name)
	}
	point, stall, kept, err := g.pin(ctx, name, pin, "")
	if err != nil {
		return point, stall, err
	}
	switch at := point.Time.UTC().Format(time.RFC3339Nano); kept {
	case keptByAll:
		err = fmt.Errorf("no point was taken: pin %q keeps point %d of %s: drop it first (`point drop`), or choose another name: %w",
			pin, point.Checkpoint, at, journal.ErrPinExists)
	case keptBySome:
		err = fmt.Errorf("pin %q is complete now, and keeps point %d of %s, which that command took: for a point of now drop it first (`point drop`), or choose another name: %w",
			pin, point.Checkpoint, at, ErrPinCompleted)
	}
	return point, stall, err
}

// takeAttempts is how often a checkpoint that somebody asked for is tried. One
// that a slow disk held up beyond the barrier's time costs writers that time, and
// the next one finds most of the work done.
const takeAttempts = 3

// take has the group's coordinator take a checkpoint.
func (g *Groups) take(ctx context.Context, name string) (group.Point, time.Duration, error) {
	coord, err := g.coordinatorOf(name)
	if err != nil {
		return group.Point{}, 0, err
	}
	var taken group.Taken
	for range takeAttempts {
		if taken, err = coord.Take(ctx); !errors.Is(err, group.ErrBarrier) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return group.Point{}, 0, err
	}
	return group.Point{Checkpoint: taken.Number, Time: taken.Time, ValidUntil: taken.Time, Members: taken.Positions}, taken.Stall, nil
}

// ForkPinPrefix begins the names of pins that belong to writable forks.
const ForkPinPrefix = "fork:"

func pinKey(pin string) string { return "pin/" + pin }

// PinPoint keeps a recovery point under a name: the one that at selects, or
// with an empty at a new checkpoint. The same name again returns the same
// point, also if an earlier call pinned only some of the members.
func (g *Groups) PinPoint(ctx context.Context, name, pin, at string) (group.Point, error) {
	point, _, _, err := g.pin(ctx, name, pin, at)
	return point, err
}

// keeping is which members of a point have a pin.
type keeping int

const (
	keptByNone keeping = iota
	keptBySome
	keptByAll
)

// pin is PinPoint, and tells which members had the pin already, and how long
// writes were held.
func (g *Groups) pin(ctx context.Context, name, pin, at string) (point group.Point, stall time.Duration, kept keeping, err error) {
	unlock, err := g.cfg.Locks.Lock(ctx, pinKey(pin))
	if err != nil {
		return group.Point{}, 0, keptByNone, err
	}
	defer unlock()
	point, kept, release, err := g.kept(ctx, name, pin)
	switch {
	case err != nil || kept != keptByNone:
	case at != "":
		point, release, err = g.Hold(ctx, name, at, "")
	default:
		point, stall, err = g.take(ctx, name) // the newest is never thinned
	}
	if err != nil {
		return group.Point{}, 0, keptByNone, err
	}
	defer release()
	pinning, ctx := errgroup.WithContext(ctx)
	for id, pos := range point.Members {
		pinning.Go(func() error {
			m, err := g.cfg.Members.Member(id)
			if err != nil {
				return err
			}
			return m.PinCheckpoint(ctx, pin, point.Checkpoint, pos)
		})
	}
	return point, stall, kept, pinning.Wait()
}

// kept returns the point that a pin keeps already, held until release.
func (g *Groups) kept(ctx context.Context, name, pin string) (point group.Point, by keeping, release func(), err error) {
	pinned, err := g.pinned(ctx, name, pin)
	if err != nil || len(pinned) == 0 {
		return group.Point{}, keptByNone, func() {}, err
	}
	point, release, err = g.Hold(ctx, name, "pin:"+pin, "")
	if errors.Is(err, group.ErrNoPoint) {
		return group.Point{}, keptByNone, release, nil
	}
	if err != nil {
		return point, keptByNone, release, err
	}
	for id := range point.Members {
		if !pinned[id] {
			return point, keptBySome, release, nil
		}
	}
	return point, keptByAll, release, nil
}

// noCheckpoint is a number that none has: of a history in which only it is asked
// for there are the pins.
const noCheckpoint = math.MaxUint64

// pinned are the volumes that have the pin. Nearly always none has, and
// then the points, of which there may be a hundred thousand, need not be sent and
// looked through for it.
func (g *Groups) pinned(ctx context.Context, name, pin string) (map[journal.VolumeID]bool, error) {
	st, err := g.reg.Get(name)
	if errors.Is(err, group.ErrNotFound) {
		st, err = group.State{Name: name}, nil // it may have ended: see Points
	}
	if err != nil {
		return nil, err
	}
	histories, err := g.cfg.Members.HistoriesIn(ctx, st, noCheckpoint, noCheckpoint)
	have := map[journal.VolumeID]bool{}
	for _, h := range histories {
		if _, ok := h.Pins[pin]; ok {
			have[h.Volume] = true
		}
	}
	return have, err
}

// LockPin takes a pin's turn, for those who drop pins from stores themselves.
func (g *Groups) LockPin(ctx context.Context, pin string) (unlock func(), err error) {
	return g.cfg.Locks.Lock(ctx, pinKey(pin))
}
