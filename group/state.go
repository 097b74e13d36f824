package group

import (
	"maps"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// Role is what a site is for a group.
type Role string

// Roles of a site.
const (
	RolePrimary Role = "primary" // serves the group's devices
	RoleReplica Role = "replica" // is fed by a peer; devices are not served
)

// Term is the fencing number of a group: raised by every promote, it never
// falls. A site that meets a higher term than its own is no longer primary.
type Term uint64

// Settings are what users choose for a group.
type Settings struct {
	// CheckpointInterval between automatic checkpoints; at least 100 ms,
	// default 1 s.
	CheckpointInterval time.Duration
	// BarrierTimeout bounds how long writes may wait for a checkpoint;
	// default 50 ms.
	BarrierTimeout time.Duration
	// Window is how far back history is wanted; by default, the last age of History.
	Window time.Duration
	// History says which checkpoints are kept at which age, as
	// journal.ParseHistory reads it; empty keeps every one for the window. Its
	// last age is the window. Without both it is DefaultHistory.
	History string `json:",omitempty"`
	// JournalBytes is the journal budget of each member; 0 picks a default
	// from the member's size.
	JournalBytes int64
	// ReplicateTo names the peer site, or is empty.
	ReplicateTo string
}

// State is the durable state of a group on this site.
type State struct {
	Name     string
	Role     Role
	Term     Term
	Settings Settings
	Members  []journal.VolumeID // ascending
	// Deleted are volumes that were members and are gone for good, ascending,
	// for as long as a checkpoint may name them. Who is not in it and has no
	// store here was never received.
	Deleted []journal.VolumeID `json:",omitempty"`
	// Removed are volumes that this site has removed itself, and when: what is pinned of before is a
	// point without them also where a peer that had not heard of it brings them back, see Lacks.
	Removed map[journal.VolumeID]time.Time `json:",omitempty"`
	// Source is the peer that feeds this group while Role is RoleReplica.
	Source string
	// SourceRests says that the primary announces nothing before the group is in
	// use there again.
	SourceRests bool `json:",omitempty"`
	// Orphaned is when a replica's site learned that the group has ended at its
	// primary; zero while it has not. A promote or a new announcement clears it.
	Orphaned time.Time `json:",omitzero"`
	// Rewind is set from the end of StartRewind until it is undone or committed.
	Rewind *Rewind `json:",omitempty"`
	// Pending is an operation that must be finished before anything else.
	Pending *Operation `json:",omitempty"`
	// LastCheckpoint is at least the number of every checkpoint that a fork
	// left behind; numbers go on above it.
	LastCheckpoint journal.CheckpointNumber
}

// Rewind remembers a rewind in progress.
type Rewind struct {
	// ID names the pins that keep Back.
	ID      string
	Started time.Time
	// Fork is the writable fork that was made production; empty: a rewind. To is then
	// the point that ends what it held, without Members.
	Fork string `json:",omitempty"`
	To   Point
	From Point
	// Back is where each member stood before: UndoRewind forks there.
	Back map[journal.VolumeID]journal.Position
}

// Point is a recovery point: a checkpoint that all members of the group at
// that moment hold durably, inside the horizon of each.
type Point struct {
	Checkpoint journal.CheckpointNumber
	Time       time.Time
	// ValidUntil is the newest moment that the point still describes; later
	// than Time when the group was idle after it.
	ValidUntil time.Time
	Pins       []string
	Members    map[journal.VolumeID]journal.Position
	// Left: it is on a timeline that a rewind, a failover or a recovery has left, and is
	// there because it is pinned. That is a matter of the moment, and not written down.
	Left bool `json:"-"`
}

// Claimed is the role that this site has for its term as others must see it: one
// whose promotion was written down and not finished owns its term.
func (s *State) Claimed() Role {
	if s.Pending != nil && s.Pending.Role == RolePrimary && s.Pending.Term == s.Term {
		return RolePrimary
	}
	return s.Role
}

// Follow makes this site the replica of a source at a term, which ends what it
// had under way: an operation that was not finished, finished now, would make it
// primary at a term that is another site's.
func (s *State) Follow(source string, term Term) {
	s.Role, s.Term, s.Source = RoleReplica, term, source
	s.Rewind, s.Pending, s.Orphaned, s.SourceRests = nil, nil, time.Time{}, false
}

// IsDeleted reports whether a volume that was a member is gone for good.
func (s *State) IsDeleted(id journal.VolumeID) bool { return slices.Contains(s.Deleted, id) }

// Lacks reports whether a checkpoint of a time that names a volume, and of which that one holds nothing,
// is a point without it: it is gone for good, or this site had removed it and a peer has brought it back.
// Of one that is back this is so for what is pinned alone, which was chosen when it was whole: another one
// may be a checkpoint of the peer's, of which the volume's part has yet to arrive.
func (s *State) Lacks(id journal.VolumeID, at time.Time, pinned bool) bool {
	return s.IsDeleted(id) || pinned && !at.After(s.Removed[id])
}

// MaxDeleted bounds State.Deleted, and State.Removed; beyond it the points that name the rest are
// not found any more.
const MaxDeleted = 4096

// Remove enters a volume that this site removes for good; see AddDeleted.
func (s *State) Remove(id journal.VolumeID, named func(journal.VolumeID) bool, now time.Time) {
	if s.Removed == nil {
		s.Removed = map[journal.VolumeID]time.Time{}
	}
	if _, known := s.Removed[id]; known || len(s.Removed) < MaxDeleted {
		s.Removed[id] = now
	}
	s.AddDeleted([]journal.VolumeID{id}, named)
}

// MadeAgain says that a volume of an id was made, which is none that was removed before.
func (s *State) MadeAgain(id journal.VolumeID) {
	delete(s.Removed, id)
	s.AddDeleted(nil, nil)
}

// AddDeleted enters volumes that are gone for good, and forgets those that named
// says no checkpoint names; a nil named forgets none. A member is not gone: a
// volume of the same id was made again, or this site followed one that has it.
func (s *State) AddDeleted(ids []journal.VolumeID, named func(journal.VolumeID) bool) {
	if named != nil {
		maps.DeleteFunc(s.Removed, func(id journal.VolumeID, _ time.Time) bool { return !named(id) })
	}
	all := slices.DeleteFunc(slices.Concat(s.Deleted, ids), func(id journal.VolumeID) bool {
		return slices.Contains(s.Members, id) || named != nil && !named(id)
	})
	slices.SortFunc(all, func(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) })
	all = slices.Compact(all)
	s.Deleted = all[:min(len(all), MaxDeleted)]
}
