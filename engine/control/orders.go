package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/journal"
)

var (
	// ErrStaleOrder: a higher term or revision is in force.
	ErrStaleOrder = errors.New("a newer order is in force")
	// ErrNoStore: nothing was ordered yet, or a replica holds nothing.
	ErrNoStore = errors.New("there is no store yet")
	// ErrDeviceInUse: the device is open or mounted.
	ErrDeviceInUse = errors.New("device is in use")
	// ErrNoPin: no pin of that name.
	ErrNoPin = errors.New("no such pin")
	// ErrNoView: no open view of that id.
	ErrNoView = errors.New("no such view")
	// ErrOutdated: the engine does not know a call that came later than its version.
	ErrOutdated = errors.New("it is of an earlier version, until it is upgraded")
	// ErrLeaseLost: another engine may have the volume.
	ErrLeaseLost = errors.New("lease lost")
)

// Role is what the site is for the volume's group.
type Role string

// Roles.
const (
	Primary Role = "primary"
	Replica Role = "replica"
)

// Orders is all that a controller wants of an engine. They replace each other
// as a whole, and a lower (Term, Revision) never replaces a higher one.
type Orders struct {
	Volume   journal.VolumeID `json:"volume"`
	Term     uint64           `json:"term"`
	Revision uint64           `json:"revision"`
	Group    string           `json:"group"`
	Role     Role             `json:"role"`
	// Window is how far back history is wanted; JournalBytes the journal's
	// budget, 0 for a default from the volume's size.
	Window time.Duration `json:"window"`
	// History is group.Settings': which checkpoints are kept at which age.
	History      string `json:"history,omitempty"`
	JournalBytes int64  `json:"journalBytes,omitempty"`
	// Writable lets a primary admit changes.
	Writable bool `json:"writable,omitempty"`
	// Attach is how the device is to look; nil: detached.
	Attach *Attach `json:"attach,omitempty"`
	// Peer is where a primary sends its records; nil: nowhere.
	Peer *Peer `json:"peer,omitempty"`
	// Source is the site that feeds a replica.
	Source string `json:"source,omitempty"`
	// SizeBytes of a primary's store that has to be made. An existing one is
	// grown to it and never shrunk.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// Fill is the first content of a store that has to be made; nil: zeroes.
	Fill *Fill `json:"fill,omitempty"`
}

// Attach is how a block device is to look.
type Attach struct {
	BlockBytes int  `json:"blockBytes"` // logical block size: 512 or 4096
	ReadOnly   bool `json:"readOnly,omitempty"`
}

// Peer is another site's gateway.
type Peer struct {
	Site    string `json:"site"`
	Address string `json:"address"` // host:port
}

// Fill names an image that another engine has.
type Fill struct {
	Address string           `json:"address"` // host:port of that engine
	Volume  journal.VolumeID `json:"volume"`
	Pin     string           `json:"pin"`
}

// Compare orders by term and revision.
func (o *Orders) Compare(other *Orders) int {
	return cmp.Or(cmp.Compare(o.Term, other.Term), cmp.Compare(o.Revision, other.Revision))
}

// Validate reports the first field that cannot be used.
func (o *Orders) Validate() error {
	switch {
	case o.Volume == (journal.VolumeID{}):
		return errors.New("orders: volume is missing")
	case o.Term == 0 || o.Group == "":
		return fmt.Errorf("orders for volume %s: term and group are required", o.Volume)
	case o.Role != Primary && o.Role != Replica:
		return fmt.Errorf("orders for volume %s: role %q is unknown", o.Volume, o.Role)
	case o.SizeBytes < 0 || o.SizeBytes%engine.SectorBytes != 0:
		return fmt.Errorf("orders for volume %s: size of %d bytes", o.Volume, o.SizeBytes)
	case o.Role == Replica && (o.Writable || o.Attach != nil || o.Peer != nil || o.Fill != nil):
		return fmt.Errorf("orders for volume %s: a replica takes no writes, device, peer or fill", o.Volume)
	case o.Attach != nil && o.Attach.BlockBytes != 512 && o.Attach.BlockBytes != 4096:
		return fmt.Errorf("orders for volume %s: block size of %d bytes", o.Volume, o.Attach.BlockBytes)
	case o.Window < 0 || o.JournalBytes < 0:
		return fmt.Errorf("orders for volume %s: window and journal budget must not be negative", o.Volume)
	}
	if _, err := journal.ParseHistory(o.History); err != nil {
		return fmt.Errorf("orders for volume %s: %w", o.Volume, err)
	}
	return nil
}

// Reason is a word for what keeps a volume from being served as ordered.
type Reason string

// Reasons.
const (
	ReasonDamaged   Reason = "Damaged"
	ReasonPoisoned  Reason = "Poisoned"
	ReasonFull      Reason = "Full"
	ReasonLeaseLost Reason = "LeaseLost"
	ReasonFilling   Reason = "Filling"
	ReasonNotOpen   Reason = "NotOpen"
)

// State is what an engine tells of itself.
type State struct {
	Volume journal.VolumeID
	// Incarnation is drawn at each start of the process.
	Incarnation string
	Version     string
	// Term and Revision of the orders that were carried out last; 0 for none.
	Term, Revision uint64
	// FencedBelow is the lowest term whose replication is taken.
	FencedBelow uint64
	Store       *StoreState // nil until there is a store
	Device      string      // path on the engine's node; empty while detached
	// Transport is how the device's requests come from the kernel, and
	// TransportFallback why that is not what the node was asked for; both empty
	// while detached.
	Transport, TransportFallback string
	Replication                  *ReplicationState
	// Leaving is set when the process was told to end and serves on until
	// another one waits for its place.
	Leaving bool
	Reason  Reason // empty while all is as ordered
	Error   string // for people
}

// StoreState is a store at one moment.
type StoreState struct {
	SizeBytes                int64
	Tip, Durable, Horizon    journal.Position
	JournalBytes             int64
	IndexExtents, IndexBytes int64
	Timelines                []journal.Timeline // parents before children
	Pins                     map[string]journal.Position
	Newest, Oldest           journal.Checkpoint // number 0: none
	FreeBytes, CapacityBytes int64              // of the backing volume
	Space                    journal.SpaceStats // of its lack of room
	// ShortByBytes is Store.ShortByBytes: how much smaller the backing volumes are than
	// what is to be kept on them.
	ShortByBytes int64
	// Damaged is how many places are known to be damaged, Unrepairable how many of
	// them no peer could help with, and Damage what the first one is.
	Damaged, Unrepairable int
	Damage                string
	// Thinning travels as far as it tells what the journal is of and what was thinned
	// away: ReadBytes, WrittenBytes and Tiers. The rest is for the engine's own metrics.
	Thinning journal.ThinningStats
	// Points are those of the group by the tiers that were ordered, as counted a few
	// seconds ago; none from an engine of a version that does not count.
	Points []journal.TierPoints
}

// ReplicationState is a primary's way to its peer.
type ReplicationState struct {
	Peer                 string
	Connected            bool
	Error                string
	LagRecords, LagBytes uint64
	LagTime              time.Duration
	// ImageBytes of ImageSizeBytes have been passed of an image that is being
	// sent; both 0 when there is none.
	ImageBytes, ImageSizeBytes int64
}

// Volume is what a Server serves. Its methods may be called concurrently.
type Volume interface {
	// Order makes orders durable and carries them out; ErrStaleOrder. What
	// takes longer than ctx allows goes on; the same orders again wait for it.
	Order(ctx context.Context, o Orders) error
	// Withdraw is Order for orders without a device: ErrDeviceInUse, and nothing has
	// changed, unless it is known that nothing on the node uses the device that
	// there is. With nil it only looks.
	Withdraw(ctx context.Context, o *Orders) error
	// Fork is Engine.ForkOnce of the open engine. ErrDeviceInUse while there is a
	// device, or is to be one: what a kernel has of it does not change with it.
	Fork(ctx context.Context, at journal.Position, reason string) error
	// Fence ends incoming replication of lower terms and refuses it from now
	// on, durably. No append is in progress on return. Lift
	// lowers a fence that is not above givenUp to held: one that comes late
	// finds a higher fence, and does nothing.
	Fence(ctx context.Context, term uint64) error
	Lift(ctx context.Context, givenUp, held uint64) error
	// Controller is the highest number of a controller that NoteController has noted, also an
	// earlier process's; 0: none. NoteController is durable on return; a lower number is no change.
	Controller() uint64
	NoteController(number uint64) error
	// Engine returns the open engine; ErrNoStore, or why it is not open.
	Engine() (*engine.Engine, error)
	// State describes the volume; changed is closed when that has changed.
	State() (s State, changed <-chan struct{})
	// KeepPoint is Store.KeepPoint for a member of a replica; with the zero position of
	// what it keeps now. A member of a primary keeps nothing.
	KeepPoint(at journal.Position, d time.Duration) error
	// OpenView shows the image at a position under an export name, until
	// CloseView; ErrNoView.
	OpenView(ctx context.Context, id string, at journal.Position) (export string, err error)
	CloseView(ctx context.Context, id string) error
	// BeginCopy keeps the open engine's store in its place until end is called: no image of
	// a peer takes it.
	BeginCopy(of *engine.Engine) (end func(), err error)
	// Scrub is Engine.Scrub of the open engine, or follows the one that is under way:
	// told is called at once, and when there is news. When nobody follows it any more it
	// goes on in its own time. engine.ErrClosed where the store is closed first.
	Scrub(ctx context.Context, repair bool, told func(engine.ScrubStep)) (engine.Scrubbed, error)
}
