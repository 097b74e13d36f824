package replication

import (
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// hello is a decoded and checked Hello.
type hello struct {
	group     string
	term      group.Term
	volume    journal.VolumeID
	sizeBytes int64
	path      journal.Path
	timelines map[journal.TimelineID]journal.Timeline
}

func checkVersion(found uint32) error {
	if found != ProtocolVersion {
		return fmt.Errorf("peer speaks version %d, this site version %d: %w", found, ProtocolVersion, ErrProtocolVersion)
	}
	return nil
}

func checkGroup(name string, term uint64) error {
	if len(name) == 0 || len(name) > MaxNameBytes {
		return fmt.Errorf("group name has %d bytes, want 1 to %d: %w", len(name), MaxNameBytes, ErrLimit)
	}
	if term == 0 {
		return fmt.Errorf("group %s has no term: %w", name, ErrProtocol)
	}
	return nil
}

func checkVolumeBytes(sizeBytes int64) error {
	if sizeBytes <= 0 || sizeBytes > MaxVolumeBytes || sizeBytes%journal.SectorBytes != 0 {
		return fmt.Errorf("volume of %d bytes, want whole sectors up to %d: %w", sizeBytes, int64(MaxVolumeBytes), ErrLimit)
	}
	return nil
}

func decodeVolume(b []byte) (journal.VolumeID, error) {
	var id journal.VolumeID
	if len(b) != len(id) {
		return id, fmt.Errorf("volume id has %d bytes, want %d: %w", len(b), len(id), ErrProtocol)
	}
	copy(id[:], b)
	if id.IsZero() {
		return id, fmt.Errorf("volume id is zero: %w", ErrProtocol)
	}
	return id, nil
}

func decodeHello(m *replicationv1.Hello) (hello, error) {
	if m == nil {
		return hello{}, fmt.Errorf("stream does not open with hello: %w", ErrProtocol)
	}
	if err := checkVersion(m.GetVersion()); err != nil {
		return hello{}, err
	}
	if err := checkGroup(m.GetGroup(), m.GetTerm()); err != nil {
		return hello{}, err
	}
	if err := checkVolumeBytes(m.GetSizeBytes()); err != nil {
		return hello{}, err
	}
	volume, err := decodeVolume(m.GetVolume())
	if err != nil {
		return hello{}, err
	}
	h := hello{group: m.GetGroup(), term: group.Term(m.GetTerm()), volume: volume, sizeBytes: m.GetSizeBytes()}
	list, err := decodeTimelines(m.GetTimelines())
	if err != nil {
		return hello{}, err
	}
	h.timelines = make(map[journal.TimelineID]journal.Timeline, len(list))
	for _, t := range list {
		h.timelines[t.ID] = t
	}
	h.path, err = decodePath(m.GetPath(), h.timelines)
	return h, err
}

// OpeningVolume returns the volume that the first message of a stream names,
// for whoever passes the stream on. ErrProtocol when it is no hello, or names
// none; everything else in it is for its receiver to judge.
func OpeningVolume(m *replicationv1.SourceMessage) (journal.VolumeID, error) {
	if m.GetHello() == nil {
		return journal.VolumeID{}, fmt.Errorf("stream does not open with hello: %w", ErrProtocol)
	}
	return decodeVolume(m.GetHello().GetVolume())
}

// decodePath checks that each run begins behind its predecessor, on a
// timeline that forks there.
func decodePath(runs []*replicationv1.Run, timelines map[journal.TimelineID]journal.Timeline) (journal.Path, error) {
	if len(runs) == 0 || len(runs) > MaxTimelines {
		return nil, fmt.Errorf("path of %d runs, want 1 to %d: %w", len(runs), MaxTimelines, ErrLimit)
	}
	path := make(journal.Path, 0, len(runs))
	for i, m := range runs {
		run := journal.Run{Timeline: journal.TimelineID(m.GetTimeline()), First: journal.Seq(m.GetFirst()), Last: journal.Seq(m.GetLast())}
		t, known := timelines[run.Timeline]
		if !known || run.First == 0 || run.Last < run.First-1 {
			return nil, fmt.Errorf("run %d of the path, %s %d to %d, is not one: %w", i, run.Timeline, run.First, run.Last, ErrProtocol)
		}
		if i > 0 && (run.First != path[i-1].Last+1 || t.Parent != path.Tip()) {
			return nil, fmt.Errorf("run %d of the path does not follow %s: %w", i, path.Tip(), ErrProtocol)
		}
		path = append(path, run)
	}
	return path, nil
}

// durablePath is the part of path up to a durable position on it, the newest
// MaxTimelines runs of it. Ok is false when a fork has just left the position.
func durablePath(path journal.Path, durable journal.Position) (clipped journal.Path, ok bool) {
	for i, run := range path {
		if run.Timeline != durable.Timeline || durable.Seq+1 < run.First || durable.Seq > run.Last {
			continue
		}
		clipped = append(clipped, path[:i+1]...)
		clipped[i].Last = durable.Seq
		return clipped[max(0, len(clipped)-MaxTimelines):], true
	}
	return nil, false
}

// ancestry is the timelines that lead to tip, parents first, the newest
// MaxTimelines of them.
func ancestry(known []journal.Timeline, tip journal.TimelineID) []journal.Timeline {
	var line []journal.Timeline
	for i := len(known) - 1; i >= 0 && len(line) < MaxTimelines; i-- {
		if known[i].ID == tip {
			line = append(line, known[i])
			tip = known[i].Parent.Timeline
		}
	}
	for i, j := 0, len(line)-1; i < j; i, j = i+1, j-1 {
		line[i], line[j] = line[j], line[i]
	}
	return line
}

// childOf is the child of timeline from on the way to its descendant to.
func childOf(known []journal.Timeline, from, to journal.TimelineID) (journal.Timeline, error) {
	line := ancestry(known, to)
	for i := len(line) - 1; i > 0; i-- {
		if line[i-1].ID == from {
			return line[i], nil
		}
	}
	return journal.Timeline{}, fmt.Errorf("find way from timeline %s to %s: %w", from, to, journal.ErrDiverged)
}

func encodePath(path journal.Path) []*replicationv1.Run {
	runs := make([]*replicationv1.Run, 0, len(path))
	for _, r := range path {
		runs = append(runs, &replicationv1.Run{Timeline: uint64(r.Timeline), First: uint64(r.First), Last: uint64(r.Last)})
	}
	return runs
}

func encodeTimeline(t journal.Timeline) *replicationv1.Timeline {
	m := &replicationv1.Timeline{Id: uint64(t.ID), Created: timestamppb.New(t.Created), Reason: t.Reason}
	if t.Parent != (journal.Position{}) {
		m.Parent = encodePosition(t.Parent)
	}
	return m
}

func encodeTimelines(list []journal.Timeline) []*replicationv1.Timeline {
	out := make([]*replicationv1.Timeline, 0, len(list))
	for _, t := range list {
		out = append(out, encodeTimeline(t))
	}
	return out
}

func decodeTimeline(m *replicationv1.Timeline) (journal.Timeline, error) {
	if m.GetId() == 0 {
		return journal.Timeline{}, fmt.Errorf("timeline has no id: %w", ErrProtocol)
	}
	if len(m.GetReason()) > MaxNameBytes {
		return journal.Timeline{}, fmt.Errorf("reason of a timeline has %d bytes, want at most %d: %w", len(m.GetReason()), MaxNameBytes, ErrLimit)
	}
	t := journal.Timeline{ID: journal.TimelineID(m.GetId()), Parent: decodePosition(m.GetParent()), Reason: m.GetReason()}
	if t.Parent.Timeline == t.ID {
		return journal.Timeline{}, fmt.Errorf("timeline %s is its own parent: %w", t.ID, ErrProtocol)
	}
	if stamp := m.GetCreated(); stamp != nil {
		if err := stamp.CheckValid(); err != nil {
			return journal.Timeline{}, fmt.Errorf("read creation of timeline %s: %v: %w", t.ID, err, ErrProtocol)
		}
		t.Created = stamp.AsTime()
	}
	return t, nil
}

func decodeTimelines(list []*replicationv1.Timeline) ([]journal.Timeline, error) {
	if len(list) > MaxTimelines {
		return nil, fmt.Errorf("%d timelines, want at most %d: %w", len(list), MaxTimelines, ErrLimit)
	}
	out := make([]journal.Timeline, 0, len(list))
	for _, m := range list {
		t, err := decodeTimeline(m)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func encodePosition(p journal.Position) *replicationv1.Position {
	return &replicationv1.Position{Timeline: uint64(p.Timeline), Seq: uint64(p.Seq)}
}

// decodePosition returns the zero Position for an unset one.
func decodePosition(m *replicationv1.Position) journal.Position {
	return journal.Position{Timeline: journal.TimelineID(m.GetTimeline()), Seq: journal.Seq(m.GetSeq())}
}
