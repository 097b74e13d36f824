package operator

import (
	"context"

	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Fleet is the volumes and groups of this site. Its methods may be called
// concurrently; errors are those of packages fleet and groups.
type Fleet interface {
	Volumes() []fleet.Volume
	MoveVolume(ctx context.Context, id journal.VolumeID, group string, settings group.Settings) error
	// States are all groups, by name.
	States() []group.State
	// Summary describes a group; group.ErrNotFound.
	Summary(ctx context.Context, name string) (groups.Summary, error)
	// Wake has a group's engines run until release is called.
	Wake(ctx context.Context, name string, past bool) (release func(), err error)
	// Idle returns groups.ErrInUse while anything uses a device of a group.
	Idle(ctx context.Context, name string) error
	// Hold finds a recovery point of a group that is awake, and has its members hold
	// it by a name until release or Release, or for an hour.
	Hold(ctx context.Context, name, at, by string) (point group.Point, release func(), err error)
	Release(ctx context.Context, name, by string)
	StartRewind(ctx context.Context, name, at string, dryRun bool) (group.Rewind, error)
	UndoRewind(ctx context.Context, name string, dryRun bool) (group.Point, error)
	CommitRewind(ctx context.Context, name string, dryRun bool) (group.Point, error)
	Failover(ctx context.Context, name, at string, dryRun bool) (groups.Failover, error)
	// PeerChanged has the groups that go to a peer find it again.
	PeerChanged(ctx context.Context, site string) error
}

// Catalog is the CSI controller's knowledge of volumes; *controller.Server is
// one.
type Catalog interface {
	GroupOf(id journal.VolumeID) (string, error)
	Regroup(ctx context.Context, id journal.VolumeID, to string, chosen *group.Settings, move func(ctx context.Context, settings group.Settings) error) error
	Choose(ctx context.Context, name string, chosen group.Settings) error
	Adopt(ctx context.Context, a controller.Adoption) error
}

var _ Catalog = (*controller.Server)(nil)

// OfFleet makes a fleet and its groups one Fleet.
func OfFleet(f *fleet.Fleet) Fleet { return ofFleet{f, f.Groups()} }

// groupsOf is *groups.Groups under another name, because fleet.Fleet has a
// method that is called like it.
type groupsOf = *groups.Groups

type ofFleet struct {
	*fleet.Fleet
	groupsOf
}
