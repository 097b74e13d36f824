package groups

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// ErrInUse means that a device is still open, mounted for example.
var ErrInUse = errors.New("device is in use")

// ErrAbsent means that a member has nothing at this site, and never had: the site
// became the primary before anything of it arrived.
var ErrAbsent = errors.New("nothing of the volume had arrived when this site became the primary")

// Member is one volume of a group as the group's operations need it. Its
// methods may be called concurrently and repeated.
type Member interface {
	group.Member
	group.Forker
	// SetWritable decides whether changes are admitted. After false none is
	// in flight on return, and none is admitted until true. With true the device
	// is there again that Withdraw took away.
	SetWritable(ctx context.Context, writable bool) error
	// SetRetention applies the group's window and journal budget.
	SetRetention(ctx context.Context, settings group.Settings) error
	// Hold keeps a position that can be opened, for d at most and until Release (see
	// Members), under a name: journal.Store's; with a number other than 0 that checkpoint there, as
	// its HoldCheckpoint. journal.ErrHorizon, journal.ErrUnknownPosition.
	Hold(ctx context.Context, name string, at journal.Position, number journal.CheckpointNumber, d time.Duration) error
	// PinCheckpoint keeps the member's part of a recovery point under a name: journal.Store's.
	PinCheckpoint(ctx context.Context, name string, number journal.CheckpointNumber, at journal.Position) error
	// Newest is the newest durable checkpoint of the member; number 0 if it
	// has none. ErrAbsent.
	Newest(ctx context.Context) (journal.Checkpoint, error)
	// CheckUnused returns ErrInUse while the member's device is open, and
	// otherwise sees to it that nothing of its content is cached any more.
	CheckUnused(ctx context.Context) error
	// Withdraw has nobody use the member's content, and nobody have any of it
	// cached, until SetWritable(true): a device of it that is attached goes
	// meanwhile, or all that is cached of it. What was written to it is with the
	// engine on return. ErrInUse while anything uses it.
	Withdraw(ctx context.Context) error
}

// NumberAbove is above the number of every checkpoint that a group may have taken before now, for
// one of which no member knows any: it counts milliseconds, and a group takes a few
// checkpoints a second at most.
func NumberAbove(now time.Time) journal.CheckpointNumber {
	return journal.CheckpointNumber(max(0, now.UnixMilli()))
}

// Members is where the members of a site's groups are. Its methods may be
// called concurrently, also with a group's key held (see Config.Locks): they
// must not wait for one.
type Members interface {
	// Member returns a member, or why it cannot take part now.
	Member(id journal.VolumeID) (Member, error)
	// Histories returns the past of those of a group's members, and of its
	// retired volumes, that are open. Others may be among them as away.
	Histories(ctx context.Context, st group.State) ([]group.History, error)
	// Complete reports whether all that Histories could return is there: no
	// member and no retired volume of the group is not open.
	Complete(st group.State) bool
	// HistoriesIn is Histories with only the checkpoints in [from, to].
	HistoriesIn(ctx context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.History, error)
	// OpenableIn is HistoriesIn with all that can be opened, also what the
	// members' history does not keep any more.
	OpenableIn(ctx context.Context, st group.State, from, to journal.CheckpointNumber) ([]group.History, error)
	// Release ends what those that Histories asks hold by a name, as far as they
	// can be told.
	Release(ctx context.Context, st group.State, name string)
	// Pinned is Histories with those checkpoints at least that a pin of their own
	// volume keeps, and with what is Left. Outlines is Histories with checkpoints that need not have a
	// position, and without pins.
	Pinned(ctx context.Context, st group.State) ([]group.History, error)
	Outlines(ctx context.Context, st group.State) ([]group.History, error)
	// Ends returns the numbers of the oldest and of the newest checkpoint of
	// the group that each of those holds, as far as they are known.
	Ends(st group.State) (oldest, newest []journal.CheckpointNumber)
	// Whole reports whether every member is known to hold its history from its
	// beginning.
	Whole(st group.State) bool
	// Outlived reports whether volumes may hold checkpoints of a group that has ended, and
	// which Histories does not tell of now. joins is to be the first member of another one of that name.
	Outlived(name string, joins journal.VolumeID) bool
	// Serving reports whether a primary group is to take checkpoints now. One
	// of which nothing is in use rests: its newest point stays true.
	Serving(st group.State) bool
	// Follow makes the members of a group that a peer has announced known,
	// durably, and retires those that have left it.
	Follow(ctx context.Context, peer string, a replication.Announcement) error
	// Changed says that a peer has made a group, or has changed its role or its
	// members, or that the group has other settings: what is to run for them, and
	// what they live on, may be another thing. The group's key is held.
	Changed(group string)
	// GiveBack ends what Withdraw began of members that do not become writable.
	GiveBack(ids []journal.VolumeID)
	// Title is how messages name a volume to people; it is any volume's.
	Title(id journal.VolumeID) string
	// Describe tells a peer of the members.
	Describe(ids []journal.VolumeID) ([]replication.Member, error)
}

// Replicator begins to send a primary group's records to its peer.
type Replicator interface {
	// Replicate returns what is to run while the group is primary; nil for a
	// group that goes nowhere.
	Replicate(st group.State) (Replication, error)
	// Tell announces a group to a peer once, outside of what Replicate returns.
	Tell(ctx context.Context, peer string, a replication.Announcement) error
}

// Replication is one group on its way to a peer; *replication.Sender is one.
type Replication interface {
	// Run replicates until ctx ends, or until the site was demoted.
	Run(ctx context.Context) error
	Metrics() replication.Metrics
}

// Fencer stops what replication appends to a group; see replication.Server's
// Fence.
type Fencer interface {
	// Fence returns the lowest term that the promote may use: a fence that
	// outlives this process is for one term, and a term that was given up is
	// never used again. 0: the group's next one.
	Fence(ctx context.Context, group string) (term group.Term, release func(), err error)
}

// Streams are what feeds the replicas of a site that is one process; *replication.Server is
// one, and says what its methods mean.
type Streams interface {
	Fence(ctx context.Context, group string) (release func(), err error)
	Pause(ctx context.Context, group string) (release func(), err error)
}

// OneProcess makes a Fencer of a site that has nothing outside of this process to fence.
func OneProcess(s Streams) Fencer { return oneProcess{s} }

type oneProcess struct{ Streams }

func (o oneProcess) Fence(ctx context.Context, name string) (group.Term, func(), error) {
	release, err := o.Streams.Fence(ctx, name)
	return 0, release, err
}

// members returns a group's members, all or an error.
func (g *Groups) members(ids []journal.VolumeID) ([]Member, error) {
	var out []Member
	for _, id := range ids {
		m, err := g.cfg.Members.Member(id)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// forkers returns all members of a group for an operation, or an error.
func (g *Groups) forkers(ids []journal.VolumeID) ([]group.Forker, error) {
	members, err := g.members(ids)
	if err != nil {
		return nil, err
	}
	out := make([]group.Forker, len(members))
	for i, m := range members {
		out[i] = m
	}
	return out, nil
}

// stopWrites makes every open member refuse changes and waits for those in
// flight.
func (g *Groups) stopWrites(ctx context.Context, ids []journal.VolumeID) error {
	errs := make([]error, len(ids))
	var stopping sync.WaitGroup
	for i, id := range ids {
		if m, err := g.cfg.Members.Member(id); err == nil {
			stopping.Go(func() { errs[i] = m.SetWritable(ctx, false) })
		}
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// absentMember stands for a member that cannot take part. It makes every
// checkpoint round fail with the reason, because a recovery point without that
// member would be none.
type absentMember struct {
	id  journal.VolumeID
	why error
}

func (m absentMember) Volume() journal.VolumeID            { return m.id }
func (m absentMember) Dirty(context.Context) (bool, error) { return false, m.why }
func (m absentMember) Abort(context.Context, uint64)       {}

func (m absentMember) Prepare(context.Context, uint64, time.Duration) error {
	return fmt.Errorf("member is not open: %w", m.why)
}

func (m absentMember) Commit(context.Context, uint64, journal.Checkpoint) (journal.Position, error) {
	return journal.Position{}, m.why
}

func (m absentMember) Flush(context.Context) error { return m.why }
