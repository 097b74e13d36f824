package adminserver

import (
	"context"
	"errors"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// Site is the site that the admin API shows and acts on. Its methods may be
// called concurrently.
type Site interface {
	Name() string
	Groups() *groups.Groups
	// Wake makes the past of a group readable until release is called: where
	// engines rest while nothing uses them, it has them run.
	Wake(ctx context.Context, group string) (release func(), err error)
	// Volumes describes all volumes, by id.
	Volumes() []Volume
	// Volume describes one; ErrNotFound.
	Volume(id journal.VolumeID) (Volume, error)
	// Unpin drops a pin from every volume that has it.
	Unpin(ctx context.Context, group, pin string) error
	// Reopen recovers a volume that an error stopped; done is false if it
	// needed nothing.
	Reopen(ctx context.Context, id journal.VolumeID) (done bool, err error)
	// Scrub reads all of a volume's store, with repair has its peer asked for what is
	// damaged, and calls told meanwhile. ErrNoScrub; group.ErrBusy while another call
	// does, where two cannot follow one scrub; ErrScrubEnded.
	Scrub(ctx context.Context, id journal.VolumeID, repair bool, told func(ScrubStep)) (engine.Scrubbed, error)
	// RemoveReplica removes an orphaned volume. ErrNotFound; group.ErrRole for one
	// that is not orphaned; groups.ErrInUse.
	RemoveReplica(ctx context.Context, id journal.VolumeID) error
	// Adopt makes a store in a directory of this machine a volume. ErrNoAdoption
	// where a site has none; ErrExists, ErrBadStore.
	Adopt(ctx context.Context, a Adoption) (journal.VolumeID, error)
	// OpenView shows every member's image at a point, read-only.
	OpenView(ctx context.Context, group, at string) (View, error)
	// CloseView closes an open view; ErrNoView.
	CloseView(ctx context.Context, id string) error
	// Views returns the open views, by id.
	Views() []View
	// Peers returns the addresses of other sites by name.
	Peers() map[string]string
}

// Volume describes a volume at one moment.
type Volume struct {
	ID        journal.VolumeID
	Name      string
	Group     string
	Claim     string // NAMESPACE/NAME; empty: not known
	Node      string // that its engine runs on; empty: this one, or none
	Retired   bool   // deleted, and kept for what its group's snapshots need of it
	SizeBytes int64
	Device    string // path while attached
	// Transport is how the device's requests come, and Fallback why that is not
	// what was asked for; empty and nil where it is not known.
	Transport string
	Fallback  error
	DeviceErr error  // why it is attached and its device not served; nil while that is not so, or not known
	Store     string // directory; empty: elsewhere, or none
	Err       error  // why it is not served; nil while healthy
	Orphaned  bool   // no primary feeds this replica any more
	Tip       journal.Position
	Durable   journal.Position
	Horizon   journal.Position
	Journal   journal.Stats // JournalBytes, IndexExtents, IndexBytes, Damaged, Repairs and Space are shown
	Timelines []journal.Timeline
}

// Adoption is a store that is to be a volume.
type Adoption struct {
	Store string // absolute path
	Name  string
	Group string
	// ReplicateTo is the peer of a group that does not exist yet; empty: none.
	ReplicateTo string
}

// View is an open view of a group.
type View struct {
	ID      string
	Group   string
	Point   group.Point
	Members []ViewMember // ascending by volume
}

// ViewMember is where one member's image is shown.
type ViewMember struct {
	Volume journal.VolumeID
	Socket string // Unix socket of the NBD server; empty: see URI
	URI    string // NBD URI
}

var (
	// ErrNotFound: no such volume.
	ErrNotFound = errors.New("no such volume")
	// ErrNoAdoption: stores of this site are not directories of this machine.
	ErrNoAdoption = errors.New("this site adopts no stores")
	// ErrNoScrub: there is no open store of the volume, or whoever has it does not do
	// that.
	ErrNoScrub = errors.New("it cannot be scrubbed now")
	// ErrScrubEnded: whoever scrubbed the volume ended before it was through.
	ErrScrubEnded = errors.New("the scrub ended early and has no result")
	// ErrExists: the name or the id belongs to another volume.
	ErrExists = errors.New("volume exists")
	// ErrBadStore: no store, or one that cannot be adopted.
	ErrBadStore = errors.New("store cannot be adopted")
	// ErrNoView: no open view of that id.
	ErrNoView = errors.New("no such view")
)

// sending is how a group's replication from here stands; nil: there is none.
func (s *Server) sending(group string) *replication.Metrics {
	return s.cfg.Site.Groups().Sending(group)
}
