package controller

import (
	"context"
	"strconv"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Backend makes and keeps what the controller decided: stores, groups, pins
// and attachments.
//
// Every call is idempotent: repeated with the same arguments, also by another
// process after a crash in the midst of the first, it ends in the same state.
// What a call did is durable when it returns nil. An error means that the
// effect may be absent, partial or complete; the controller then repeats the
// call or makes the opposite one. Errors wrap the sentinels of this package.
// Calls come concurrently, but never two that change one volume or one pin,
// nor two ModifyGroup of one group.
//
// Group and volume names are any text of up to 128 bytes (see validName);
// they are no file names. Pin names are up to 64 bytes of [a-z0-9-] and are
// unique over all groups.
type Backend interface {
	// CreateStore makes a volume with the given content, zeroes without a
	// Source, and makes it a member of its group, which is created with
	// Settings if it does not exist and otherwise keeps its own. It may take as
	// long as copying the image takes. It returns where the volume can be used:
	// on nodes that have one of these sets of labels, or anywhere if there is
	// none. ErrExhausted, ErrExists (a store of that id with other properties,
	// for example a replica), ErrNotPrimary, ErrInvalid (classes that are not to
	// be had; it says what to do).
	CreateStore(ctx context.Context, spec StoreSpec) (topology []map[string]string, err error)

	// RetireStore takes a detached volume, complete or not, out of its group but
	// keeps its store: pins that were taken before can still be restored from
	// it, and later ones do not list it. A group without members ends. No error
	// if there is no such store. A store that another site is the primary of stays
	// as it is, and is no error: it protects that one.
	RetireStore(ctx context.Context, id journal.VolumeID) error

	// DeleteStore removes everything that CreateStore, or a part of it, left.
	// RetireStore has been called before, and no pin lists the volume any more, but for such as
	// ReleasePin could not drop.
	// No error if there is nothing. A store that RetireStore left as it is stays,
	// also if this site has become the primary of it since: a failover wants it.
	DeleteStore(ctx context.Context, id journal.VolumeID) error

	// ExpandStore makes a volume, attached or not, at least sizeBytes big; its
	// device shows the new size on return, which is what it returns: an earlier call
	// may have grown it further. It never shrinks. ErrExhausted.
	ExpandStore(ctx context.Context, id journal.VolumeID, sizeBytes int64) (newBytes int64, err error)

	// GroupSettings returns what a group runs by now; ErrNotFound. What came with a
	// failover is not the controller's doing.
	GroupSettings(ctx context.Context, name string) (group.Settings, error)

	// ModifyGroup replaces an existing group's settings. Afterwards, and after
	// a restart, the group runs by them. ErrInvalid, and ErrNotPrimary for a group that
	// has its settings from another site (nothing was changed).
	ModifyGroup(ctx context.Context, name string, settings group.Settings) error

	// Attach opens the volume and provides its block device on a node, so that
	// Device of the node service there finds it. It may return before the device is
	// there, when nothing is known that could keep it from coming and nobody else can
	// write to the volume any more: the node service waits. The controller repeats it after
	// a restart for every volume that is published. ErrNotPrimary, ErrDamaged,
	// and ErrInUse if it is attached with other options and open.
	Attach(ctx context.Context, id journal.VolumeID, node string, options AttachOptions) error

	// Detach makes the volume's device go away once everything written to it is
	// durable. ErrInUse, and nothing happened, if the device is still open. No
	// error if the volume is not attached or does not exist.
	Detach(ctx context.Context, id journal.VolumeID) error

	// TakePin pins a recovery point of a group: a new checkpoint when at is the
	// zero Moment, else the one that at means. Repeated with the same pin name
	// it returns the same point. Afterwards every member's image at the point
	// can be the Source of CreateStore until ReleasePin, also once the member
	// was retired. ErrNoPoint and ErrPointGone name the nearest points;
	// ErrBarrier; ErrUntouched beside ErrUnavailable where this call has pinned nothing.
	TakePin(ctx context.Context, groupName, pin string, at Moment) (PinnedPoint, error)

	// ReleasePin drops a pin from every store that has it, those of retired
	// volumes included. No error if there is none, or no such group.
	ReleasePin(ctx context.Context, groupName, pin string) error

	// Capacity tells what further volumes can have.
	Capacity(ctx context.Context, query CapacityQuery) (Capacity, error)

	// Health returns the adverse conditions of a volume; empty is healthy.
	Health(ctx context.Context, id journal.VolumeID) ([]Condition, error)

	// Ready returns nil once volumes can be served, else what is missing.
	Ready(ctx context.Context) error
}

// StoreSpec is a volume to be made.
type StoreSpec struct {
	ID        journal.VolumeID
	Name      string // of the CreateVolume request; for people
	SizeBytes int64  // a multiple of 4096
	Group     string
	Settings  group.Settings // of the group, if CreateStore has to make it
	Source    *Source        // nil: zeroes
	// Classes of what the volume is to live on; see ParameterBackingClass.
	BackingClass string
	JournalClass string
	// Preferred and Requisite are the labels of where it is to be usable, as
	// CSI's TopologyRequirement has them.
	Preferred []map[string]string
	Requisite []map[string]string
	// Claim is NAMESPACE/NAME of the claim that it is for; empty: not known. Node is
	// where it is going to be attached first; empty: nobody has chosen.
	Claim string
	Node  string
	// Attributes describe the volume to the other site.
	Attributes map[string]string
}

// CapacityQuery is what Capacity is asked of.
type CapacityQuery struct {
	BackingClass string
	JournalClass string            // of the journal; empty: it is with the rest
	Labels       map[string]string // of the nodes; nil: any
}

// Source is an image to fill a new volume with: what Member held at the
// recovery point that Pin keeps. It is not bigger than the new volume; the
// rest is zeroes.
type Source struct {
	Group  string
	Pin    string
	Member journal.VolumeID
}

// AttachOptions say how a device is to look.
type AttachOptions struct {
	ReadOnly   bool // the device refuses every change
	BlockBytes int  // logical block size: 512 or 4096
}

// Moment chooses a recovery point: by checkpoint number, or the newest at or
// before a time. The zero Moment is the present.
type Moment struct {
	Checkpoint journal.CheckpointNumber
	Time       time.Time
}

// IsPresent reports whether m is the zero Moment.
func (m Moment) IsPresent() bool { return m.Checkpoint == 0 && m.Time.IsZero() }

// String returns the form that the asOf parameter has, or "now".
func (m Moment) String() string {
	switch {
	case m.Checkpoint != 0:
		return strconv.FormatUint(uint64(m.Checkpoint), 10)
	case !m.Time.IsZero():
		return m.Time.Format(time.RFC3339Nano)
	}
	return "now"
}

// PinnedPoint is the recovery point that a pin keeps.
type PinnedPoint struct {
	Checkpoint journal.CheckpointNumber
	Time       time.Time // of the checkpoint
	// Members are the volumes that were in the group at the checkpoint, each
	// with the size of its image in bytes.
	Members map[journal.VolumeID]int64
}

// Capacity is what further volumes can have, in bytes.
type Capacity struct {
	AvailableBytes     int64
	MaximumVolumeBytes int64 // 0: no limit of its own
}

// Severity grades a Condition.
type Severity int

// Severities, as the CSI specification defines them.
const (
	Degraded     Severity = iota + 1 // usable, but not optimally
	Inaccessible                     // not accessible
	DataLoss                         // permanent loss known or suspected
)

// Condition is one adverse condition of a volume.
type Condition struct {
	Severity Severity
	Reason   string // a CamelCase word
	Message  string // a sentence for people
}
