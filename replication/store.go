package replication

import (
	"context"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// SourceStore is what a sender needs of a primary's store. It only reads: a
// sender never holds up a writer. Methods may be called concurrently with
// writers of the store.
type SourceStore interface {
	// Volume is the store's volume.
	Volume() journal.VolumeID
	// SizeBytes is the volume's size now.
	SizeBytes() int64
	// Durable is the newest durable position of the active timeline. Only
	// what is durable is sent, so that a replica is never ahead of what its
	// source can recover.
	Durable() journal.Position
	// ImagePosition is where an image for a new replica is to be taken:
	// durable, and such that the newest durable checkpoint comes behind it.
	ImagePosition() journal.Position
	// Path is the active timeline's path from the horizon to the tip.
	Path() journal.Path
	// Timelines lists the known timelines, parents before children.
	Timelines() []journal.Timeline
	// Records reads durable records of the active path behind after;
	// journal.ErrHorizon or journal.ErrDiverged when it cannot. The former is
	// journal.ErrThinned, too, where Survivors can.
	Records(after journal.Position) (RecordReader, error)
	// Survivors reads what thinning has left of the records behind after, but
	// for those up to through; see journal.Store.Survivors.
	Survivors(after journal.Position, through journal.Seq) (SurvivorReader, error)
	// View opens the image at a position.
	View(at journal.Position) (View, error)
}

// RecordReader reads durable records in order; *journal.RecordReader is one.
// It is used by one goroutine at a time.
type RecordReader interface {
	// Next waits for the next durable record. The payload is valid until the
	// next call. journal.ErrDiverged when a fork left the reader's position,
	// journal.ErrHorizon when the record is gone.
	Next(ctx context.Context) (journal.Record, error)
	Close()
}

// SurvivorReader reads what thinning has left; *journal.SurvivorReader is one,
// and says what its methods mean. It is used by one goroutine at a time.
type SurvivorReader interface {
	Next() (journal.Record, error)
	Timeline() journal.TimelineID
	Interval() time.Duration
	RemainingBytes() int64
	Close()
}

// View is a read-only image; *journal.View is one. It is used by one goroutine
// at a time.
type View interface {
	SizeBytes() int64
	ReadAt(p []byte, off int64) error
	// NextData returns the first extent at or after off that may hold data;
	// length 0 at the end.
	NextData(off int64) (start, length int64, err error)
	Close() error
}

// ReplicaStore is what a receiver needs of a replica's store;
// *journal.Store is one. At most one stream uses a store at a time, and the
// store may be read by others meanwhile.
type ReplicaStore interface {
	// Tip is the position behind the newest record of the active timeline.
	Tip() journal.Position
	// Durable is the newest durable position of the active timeline.
	Durable() journal.Position
	// Timelines lists the known timelines.
	Timelines() []journal.Timeline
	// Adopt makes t the active timeline, durably. An unknown t begins at its
	// parent, which the store must be able to open; a known one is taken up
	// again behind its last record that the store holds. It returns
	// journal.ErrUnknownPosition or journal.ErrHorizon, and changes nothing,
	// when the store does not hold the state where t would go on.
	Adopt(t journal.Timeline) error
	// AppendRecords appends records of the active timeline that follow the
	// tip; all or, on an error, a prefix of them. Durable after Flush.
	AppendRecords(records []journal.Record) error
	// Flush returns when everything appended before the call is durable.
	Flush(ctx context.Context) error
	// Reclaim gives up what an append that found no room (journal.ErrFull) needs
	// the room of, and no more. That there was nothing is no error: the next append
	// says it.
	Reclaim(ctx context.Context) (freedBytes int64, err error)
	// Lacks returns why appends are expected to find no room, a journal.ErrFull; nil
	// if it is worth trying.
	Lacks() error
	// BeginLeap, Leap, AppendLeap and EndLeap take the store over history that
	// its source has thinned, as one step; see journal.Store. A leap that is not
	// whole outlives the stream, and ends with anything else that moves the tip.
	BeginLeap(interval time.Duration) error
	Leap() (from journal.Position, through journal.Seq, ok bool)
	AppendLeap(records []journal.Record) error
	EndLeap(end journal.Position, line *journal.Timeline) error
}

// ReplicaStores finds and makes the replica stores of a site. Calls for one
// volume come one at a time.
type ReplicaStores interface {
	// Replica returns the open store of a member, or ErrNoReplica when none
	// was filled yet, or ErrUnknownMember when the volume is not a member of
	// the group. The store stays open until the site closes it, which it does
	// only behind Server.Fence, Server.Pause or Server.Close.
	Replica(ctx context.Context, group string, volume journal.VolumeID) (ReplicaStore, error)
	// Import begins to fill a new store for a member beside the one that is
	// there, if any, which stays open and usable. An unfinished import of the
	// volume that an earlier process left behind is discarded.
	Import(ctx context.Context, group string, spec ImageSpec) (Import, error)
}

// ImageSpec describes the image of an initial sync.
type ImageSpec struct {
	Volume    journal.VolumeID
	SizeBytes int64
	At        journal.Position   // what the image is of
	Timelines []journal.Timeline // those that lead to At, parents first
}

// Import is a replica store that is being filled. It is used by one goroutine
// at a time and ends with Commit or Abort.
type Import interface {
	// WriteAt stores a part of the image. What is never written reads as
	// zeroes. The import does not keep p.
	WriteAt(p []byte, off int64) error
	// Commit makes the image durable and puts the new store in the place of
	// the old one as a single step: after a crash at any moment the site
	// finds either the old store or the new one, complete. The old store is
	// closed and its space freed once nobody reads it any more. It returns the
	// new store, open, its tip at ImageSpec.At. On an error the old store is
	// still in place, and the import is gone; but after ErrInUse it is as it
	// was, and Commit or Abort may be called again.
	Commit(ctx context.Context) (ReplicaStore, error)
	// Abort discards the import.
	Abort() error
}

// Standings is what decides who may send to whom. Methods may be called
// concurrently.
type Standings interface {
	// Standing returns what the site, or an engine of it, durably holds for a
	// group; known is false for a group that it never heard of.
	Standing(ctx context.Context, group string) (held Standing, known bool, err error)
}

// Demoter gives a group up for its newer primary.
type Demoter interface {
	// Demote makes this site a replica at a term that a peer refused it for,
	// fed by owner. Durable on return, as is that no further write is
	// admitted. No change when the site meanwhile holds that term or a higher
	// one. ErrOwnTerm where owner is this site, which is primary: it holds that term
	// then, durably, and goes on. It is called by Announcer.Run, so that it must not wait for it.
	Demote(ctx context.Context, group string, held group.Term, owner string) error
}

// Groups is the site's durable knowledge of its groups. Methods may be called
// concurrently; each must compare and change its state as one step, and must
// never lower a term.
type Groups interface {
	Standings
	Demoter
	// Follow makes this site a replica of peer at the announced term, and
	// takes over settings, members and the newest checkpoint. All of it but
	// ValidUntil is durable on return. A site that was primary has stopped
	// admitting writes by then. It is repeated with every announcement and
	// then changes only what is new. A *TermError, and no change, when the
	// site meanwhile holds a higher term, or is primary at the same one.
	Follow(ctx context.Context, peer string, a Announcement) error
	// Recognise returns ErrOtherGroup when the site has a group of the
	// announced name that is not the announced one. One that is the peer's
	// replica has then ended there, which is noted as by Ended.
	Recognise(ctx context.Context, peer string, a Announcement) error
	// Ended notes, durably, that a peer's group has ended there. The replica
	// stays as it is until a person removes it or fails over to it. No change
	// when this site is no replica of the peer, or of a higher term.
	Ended(ctx context.Context, peer, group string, term group.Term) error
}

// Orders is what an engine durably holds about the group of its one volume.
// Methods may be called concurrently; a term is never lowered.
type Orders interface {
	// Standing returns what was ordered for the group, with the newest fence
	// (see Standing.Fenced); known is false for every other group.
	Standings
	// Fence makes durable that Standing answers with at least this term. No
	// change when it does already. It is called by StreamServer.Fence only.
	Fence(ctx context.Context, term group.Term) error
}

// Announcements describes groups for an Announcer. It may be called
// concurrently.
type Announcements interface {
	// Announcement describes the group as it is now. It is called for every
	// heartbeat and should not wait for I/O.
	Announcement(ctx context.Context, group string) (Announcement, error)
}

// Sources is what a Sender needs of the site that it sends for. Methods may
// be called concurrently.
type Sources interface {
	Announcements
	// Source returns the open store of a member. It is asked for once per
	// stream. When the site closes the store, its reader fails, and the
	// Sender asks again.
	Source(ctx context.Context, group string, volume journal.VolumeID) (SourceStore, error)
}

// OpenSource adapts a store of package journal, whose methods return concrete
// types, to SourceStore.
func OpenSource(s *journal.Store) SourceStore { return journalSource{s} }

type journalSource struct{ *journal.Store }

func (s journalSource) Records(after journal.Position) (RecordReader, error) {
	r, err := s.Store.Records(after)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (s journalSource) Survivors(after journal.Position, through journal.Seq) (SurvivorReader, error) {
	r, err := s.Store.Survivors(after, through)
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (s journalSource) View(at journal.Position) (View, error) {
	v, err := s.Store.View(at)
	if err != nil {
		return nil, err
	}
	return v, nil
}
