package group

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

var (
	// ErrNotFound: no group of that name on this site.
	ErrNotFound = errors.New("no such group")
	// ErrNoPoint: no recovery point matches; a *NoPointError names the nearest.
	ErrNoPoint = errors.New("no such recovery point")
	// ErrAway: which point is meant is not known while a volume that may hold its part
	// of it does not answer. The call may be repeated.
	ErrAway = errors.New("the recovery point is not known while a volume does not answer")
	// ErrBarrier: a member did not answer in time; the checkpoint was given
	// up everywhere and may be tried again.
	ErrBarrier = errors.New("checkpoint given up")
	// ErrRole: the call needs another role than this site has for the group.
	ErrRole = errors.New("not possible in this role")
	// ErrBusy: another operation on the group is under way.
	ErrBusy = errors.New("another operation on the group is under way")
	// ErrNoRewind: there is no rewind to undo or commit.
	ErrNoRewind = errors.New("no rewind is in progress")
	// ErrRewindOpen: a rewind is in progress; undo or commit it first.
	ErrRewindOpen = errors.New("a rewind is in progress")
	// ErrStaleTerm: a higher term is known for the group.
	ErrStaleTerm = errors.New("stale term")
	// ErrUnfillable: what a fork holds cannot be read, or there is no room for it. The
	// operation cannot be completed, and is reverted.
	ErrUnfillable = errors.New("the fork cannot be made production")
	// ErrReverted: an operation could not be completed, and the group is where it was.
	ErrReverted = errors.New("nothing was changed")
	// ErrBadSelector: text that names no recovery point.
	ErrBadSelector = errors.New("want an RFC 3339 time, a checkpoint number, latest, or pin:NAME")
)

// NoPointError says which recovery points are nearest to one that does not
// exist. It matches ErrNoPoint.
type NoPointError struct {
	Group    string
	Wanted   string
	Nearest  []Point // at most one on each side, older first
	Existing int     // recovery points that the group has
	// Pins are the names that there are, ascending, where a pin was wanted: no point is
	// near to a name.
	Pins []string
	// Left are those of the number that was wanted which are on a timeline that was left.
	// They are found by a pin alone, so that nobody gets there by accident.
	Left []Point
}

// Error names what was asked for and what there is instead.
func (e *NoPointError) Error() string {
	if strings.HasPrefix(e.Wanted, pinSelector) {
		return fmt.Sprintf("group %s has no recovery point %s; %s", e.Group, e.Wanted, e.pins())
	}
	for _, p := range e.Left {
		if len(p.Pins) > 0 {
			return fmt.Sprintf("group %s has no recovery point %s on its present timeline, but one of %s that was left: name it %s%s",
				e.Group, e.Wanted, p.Time.Format(time.RFC3339Nano), pinSelector, p.Pins[0])
		}
	}
	var near []string
	for _, p := range e.Nearest {
		near = append(near, fmt.Sprintf("%d at %s", p.Checkpoint, p.Time.Format(time.RFC3339Nano)))
	}
	if len(near) == 0 {
		return fmt.Sprintf("group %s has no recovery point %s: it has none at all yet", e.Group, e.Wanted)
	}
	return fmt.Sprintf("group %s has no recovery point %s; nearest: %s (%d in all)", e.Group, e.Wanted, strings.Join(near, ", "), e.Existing)
}

// namedPins is how many pins an error names: a group may have hundreds of snapshots.
const namedPins = 10

func (e *NoPointError) pins() string {
	switch {
	case len(e.Pins) == 0:
		return "none of its points has a pin"
	case len(e.Pins) > namedPins:
		return fmt.Sprintf("pins: %s, ... (%d in all)", strings.Join(e.Pins[:namedPins], ", "), len(e.Pins))
	}
	return "pins: " + strings.Join(e.Pins, ", ")
}

// Unwrap returns ErrNoPoint.
func (e *NoPointError) Unwrap() error { return ErrNoPoint }

// memberError names the member that an error came from.
func memberError(id journal.VolumeID, err error) error {
	return fmt.Errorf("member %s: %w", id, err)
}
