package fleet

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// Config is what a Fleet needs. All but Linger, Expect, MoveWait, EngineWait, UpgradeEvery, KeepPointEvery, Clock
// and Log is required.
type Config struct {
	Site    string
	DB      kv.DB // stays the caller's
	Backing Backing
	Engines Engines
	// Dial connects to an engine's control API at an address that Engines
	// gave.
	Dial func(address string) (*grpc.ClientConn, error)
	// Peer returns how to reach another site; ok is false for a site that is
	// no peer. It may be called concurrently.
	Peer func(site string) (p Peer, ok bool)
	// ReplicaBacking says what the replica of a peer's volume lives on, which
	// there has a storage class of the name announced; empty: none. Its error is
	// the peer's answer to the announcement.
	ReplicaBacking func(ctx context.Context, site, announced string) (BackingClass, error)
	// Linger is how long an engine that nothing wants any more is kept; 0:
	// DefaultLinger.
	Linger time.Duration
	// Expect is how long the engine of a volume that was just made runs for the
	// attachment that is to come (NewVolume.Expected); 0: DefaultExpect.
	Expect time.Duration
	// MoveWait is how long a move waits for engines; 0: DefaultMoveWait.
	MoveWait time.Duration
	// EngineWait is how long who makes a volume, or makes or drops a pin, waits for an
	// engine to run, who makes a volume for its backing volume, and who deletes one for its engine and its
	// backing volume to be gone; 0: DefaultEngineWait.
	EngineWait time.Duration
	// UpgradeEvery is the time between two looks for engines of an old template;
	// 0: DefaultUpgradeEvery.
	UpgradeEvery time.Duration
	// KeepPointEvery is the time between two looks at what replicas' members have to
	// keep, and at whether an engine is as its group says; 0: DefaultKeepPointEvery.
	KeepPointEvery time.Duration
	Clock          clock.Clock  // nil: the machine's
	Log            *slog.Logger // nil: discarded
}

// Peer is another site.
type Peer struct {
	// Address of its gateway, host:port, as engines dial it.
	Address string
	// Conn leads there from the controller, and proves that it is that site.
	Conn grpc.ClientConnInterface
}

// DefaultLinger is long enough for a pod that is rescheduled on its node.
const DefaultLinger = time.Minute

// DefaultExpect is longer than it takes from a volume's being made to its being
// attached: a PersistentVolume is made and bound, and the pod, too.
const DefaultExpect = 15 * time.Second

// DefaultMoveWait is short because nobody can attach or detach the volume meanwhile; an
// engine that was asked for lingers, so that the next attempt finds it.
const DefaultMoveWait = 10 * time.Second

// DefaultEngineWait is longer than it takes until there is another node, where none has room
// for an engine's pod, and it has the image.
const DefaultEngineWait = 10 * time.Minute

// DefaultUpgradeEvery is how soon a changed template counts.
const DefaultUpgradeEvery = 2 * time.Second

// DefaultKeepPointEvery is how far what a replica's members keep may lie behind what they
// could.
const DefaultKeepPointEvery = 5 * time.Second

func (c *Config) validate() error {
	if c.Site == "" || c.DB == nil || c.Backing == nil || c.Engines == nil || c.Dial == nil || c.Peer == nil || c.ReplicaBacking == nil {
		return errors.New("fleet configuration: a required field is missing")
	}
	if c.Linger == 0 {
		c.Linger = DefaultLinger
	}
	if c.Expect == 0 {
		c.Expect = DefaultExpect
	}
	if c.MoveWait == 0 {
		c.MoveWait = DefaultMoveWait
	}
	if c.EngineWait == 0 {
		c.EngineWait = DefaultEngineWait
	}
	if c.UpgradeEvery == 0 {
		c.UpgradeEvery = DefaultUpgradeEvery
	}
	if c.KeepPointEvery == 0 {
		c.KeepPointEvery = DefaultKeepPointEvery
	}
	if c.Clock == nil {
		c.Clock = clock.Wall{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// BackingClass is what a backing volume is made of.
type BackingClass struct {
	Class        string // storage class
	JournalClass string // of a second volume for the journal; empty: none
}

// BackingSpec is a backing volume that is wanted.
type BackingSpec struct {
	Volume journal.VolumeID
	BackingClass
	// VolumeBytes and JournalBytes are what has to find room.
	VolumeBytes  int64
	JournalBytes int64
	// Node is where it is going to be used first; empty: not known.
	Node string `json:",omitempty"`
	// Claim is NAMESPACE/NAME of the claim that the volume is for; for people.
	Claim string `json:",omitempty"`
	// Group is the volume's group, and New says that nothing was ever stored:
	// what cannot be had as wanted may be thrown away. Both are filled in for
	// each call.
	Group string `json:"-"`
	New   bool   `json:"-"`
}

// Placement is what is known of a backing volume once it exists.
type Placement struct {
	// Topology is where it can be used: one of these sets of labels must match
	// the node's. Empty: anywhere.
	Topology []map[string]string `json:",omitempty"`
	// Lease is set when nothing but a lease keeps two nodes from writing to it.
	Lease bool `json:",omitempty"`
	// Pending is set while it waits for an engine to be scheduled: the rest is
	// not known.
	Pending bool `json:",omitempty"`
}

// Backing makes and keeps backing volumes. Its calls are idempotent by volume;
// they may be repeated after a crash at any point. Errors are the caller's to
// map, but ErrExhausted.
type Backing interface {
	// Ensure returns when the backing volume exists. ErrExhausted when there
	// is no room: nothing is left behind then.
	Ensure(ctx context.Context, spec BackingSpec) (Placement, error)
	// Expand makes room for a bigger volume. ErrExhausted; ErrNeedsEngine when
	// it has to be repeated while the engine runs.
	Expand(ctx context.Context, spec BackingSpec) error
	// Label has it say for people which group its volume is in; no error if it
	// does not exist.
	Label(ctx context.Context, spec BackingSpec) error
	// Delete returns when it is gone; no error if it never was.
	Delete(ctx context.Context, volume journal.VolumeID) error
}

// EngineSpec is an engine that is wanted.
type EngineSpec struct {
	Volume journal.VolumeID
	Claim  string // NAMESPACE/NAME of the claim that it is for; for people
	Group  string // that the volume is in; for people
	Node   string // that it must run on; empty: any that reaches the backing volume
	// Attached protects the engine from being evicted.
	Attached bool
	Lease    bool
	// OwnJournal: the journal has a backing volume of its own.
	OwnJournal bool
}

// Endpoint is a running engine.
type Endpoint struct {
	Address string // of its control API, host:port
	Node    string
	// Template is what it was made of; empty: it cannot be upgraded under I/O.
	Template string
}

// Engines runs the processes of engines. Its calls are idempotent by volume, and
// no two that concern one volume are made at a time.
type Engines interface {
	// Run has the engine run and returns where it is once it serves. It waits
	// as long as ctx allows. ErrElsewhere when it runs on another node than
	// wanted: Stop it first. placed is called when the engine has its node and no
	// other one of the volume can write any more, which may be long before it
	// serves.
	Run(ctx context.Context, spec EngineSpec, placed func(node string)) (Endpoint, error)
	// Stop ends the engine and returns when it can never write again; no error
	// if there is none.
	Stop(ctx context.Context, volume journal.VolumeID) error
	// HandOver has another process on the engine's node take its place, for
	// which I/O waits for a moment, and returns when Run would return that one.
	// When it fails the engine runs on, or Run has one run. Upgrade is HandOver
	// because the engine's template is an old one; ErrHeld.
	HandOver(ctx context.Context, spec EngineSpec) error
	Upgrade(ctx context.Context, spec EngineSpec) error
	// Template is what engines are made of now. manual: those that run keep
	// theirs.
	Template() (template string, manual bool, err error)
}

var (
	// ErrNotFound: no such volume.
	ErrNotFound = errors.New("no such volume")
	// ErrExhausted: no room for a backing volume.
	ErrExhausted = errors.New("no room for the backing volume")
	// ErrNotExpandable: the backing volume's storage cannot grow it.
	ErrNotExpandable = errors.New("backing volume cannot grow")
	// ErrElsewhere: the engine runs on another node.
	ErrElsewhere = errors.New("engine runs on another node")
	// ErrHeld: the engine is held back from upgrades.
	ErrHeld = errors.New("engine is held back from upgrades")
	// ErrNeedsEngine: the backing volume grows only while the engine runs.
	ErrNeedsEngine = errors.New("backing volume grows while the engine runs")
	// ErrNoEngine: the volume's engine does not answer.
	ErrNoEngine = errors.New("engine does not answer")
	// ErrNotBound: the backing volume has not come.
	ErrNotBound = errors.New("there is no backing volume")
	// ErrNotGone: what is to be deleted is still there.
	ErrNotGone = errors.New("not gone")
	// ErrNotPinned comes with another error: no volume has the pin because of this call.
	ErrNotPinned = errors.New("nothing is pinned")
	// ErrExists: the volume exists with other properties.
	ErrExists = errors.New("volume exists with other properties")
	// ErrClosed: the controller is shutting down.
	ErrClosed = errors.New("controller is shutting down")
)
