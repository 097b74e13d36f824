package control

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

func encodeOrders(o Orders) *enginev1.OrderRequest {
	out := &enginev1.OrderRequest{
		Volume: o.Volume[:], Term: o.Term, Revision: o.Revision, Group: o.Group, Role: encodeRole(o.Role),
		Settings: &enginev1.Settings{Window: durationpb.New(o.Window), JournalBytes: o.JournalBytes, History: o.History},
		Writable: o.Writable, Source: o.Source, SizeBytes: o.SizeBytes,
	}
	if a := o.Attach; a != nil {
		out.Attach = &enginev1.Attach{BlockBytes: uint32(a.BlockBytes), ReadOnly: a.ReadOnly}
	}
	if p := o.Peer; p != nil {
		out.Peer = &enginev1.Peer{Site: p.Site, Address: p.Address}
	}
	if f := o.Fill; f != nil {
		out.Fill = &enginev1.Fill{Address: f.Address, Volume: f.Volume[:], Pin: f.Pin}
	}
	return out
}

func decodeOrders(m *enginev1.OrderRequest) (Orders, error) {
	volume, err := decodeVolume(m.GetVolume())
	if err != nil {
		return Orders{}, err
	}
	o := Orders{
		Volume: volume, Term: m.GetTerm(), Revision: m.GetRevision(), Group: m.GetGroup(), Role: decodeRole(m.GetRole()),
		Window: m.GetSettings().GetWindow().AsDuration(), JournalBytes: m.GetSettings().GetJournalBytes(), History: m.GetSettings().GetHistory(),
		Writable: m.GetWritable(), Source: m.GetSource(), SizeBytes: m.GetSizeBytes(),
	}
	if a := m.GetAttach(); a != nil {
		o.Attach = &Attach{BlockBytes: int(a.GetBlockBytes()), ReadOnly: a.GetReadOnly()}
	}
	if p := m.GetPeer(); p != nil {
		o.Peer = &Peer{Site: p.GetSite(), Address: p.GetAddress()}
	}
	if f := m.GetFill(); f != nil {
		from, err := decodeVolume(f.GetVolume())
		if err != nil {
			return Orders{}, err
		}
		o.Fill = &Fill{Address: f.GetAddress(), Volume: from, Pin: f.GetPin()}
	}
	if err := o.Validate(); err != nil {
		return Orders{}, invalid("%v", err)
	}
	return o, nil
}

func encodeRole(r Role) enginev1.Role {
	switch r {
	case Primary:
		return enginev1.Role_ROLE_PRIMARY
	case Replica:
		return enginev1.Role_ROLE_REPLICA
	}
	return enginev1.Role_ROLE_UNSPECIFIED
}

func decodeRole(r enginev1.Role) Role {
	switch r {
	case enginev1.Role_ROLE_PRIMARY:
		return Primary
	case enginev1.Role_ROLE_REPLICA:
		return Replica
	}
	return ""
}

func decodeVolume(b []byte) (journal.VolumeID, error) {
	var id journal.VolumeID
	if len(b) != len(id) {
		return id, invalid("volume id has %d bytes, want %d", len(b), len(id))
	}
	copy(id[:], b)
	return id, nil
}

func encodePosition(p journal.Position) *enginev1.Position {
	return &enginev1.Position{Timeline: uint64(p.Timeline), Seq: uint64(p.Seq)}
}

func decodePosition(p *enginev1.Position) journal.Position {
	return journal.Position{Timeline: journal.TimelineID(p.GetTimeline()), Seq: journal.Seq(p.GetSeq())}
}

// stamp leaves the zero time unset.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func unstamp(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func encodeTimelines(lines []journal.Timeline) []*enginev1.Timeline {
	var out []*enginev1.Timeline
	for _, l := range lines {
		m := &enginev1.Timeline{Id: uint64(l.ID), Created: stamp(l.Created), Reason: l.Reason}
		if l.Parent != (journal.Position{}) {
			m.Parent = encodePosition(l.Parent)
		}
		out = append(out, m)
	}
	return out
}

func decodeTimelines(lines []*enginev1.Timeline) []journal.Timeline {
	var out []journal.Timeline
	for _, m := range lines {
		out = append(out, journal.Timeline{ID: journal.TimelineID(m.GetId()), Parent: decodePosition(m.GetParent()), Created: unstamp(m.GetCreated()), Reason: m.GetReason()})
	}
	return out
}

// encodeCheckpoint returns nil for none.
func encodeCheckpoint(c journal.Checkpoint) *enginev1.Checkpoint {
	if c.Number == 0 {
		return nil
	}
	out := &enginev1.Checkpoint{Number: uint64(c.Number), Time: stamp(c.Time), Group: c.Group, Position: encodePosition(c.Position)}
	for _, id := range c.Members {
		out.Members = append(out.Members, id[:])
	}
	return out
}

func decodeCheckpoint(m *enginev1.Checkpoint) (journal.Checkpoint, error) {
	if m == nil {
		return journal.Checkpoint{}, nil
	}
	c := journal.Checkpoint{Number: journal.CheckpointNumber(m.GetNumber()), Time: unstamp(m.GetTime()), Position: decodePosition(m.GetPosition())}
	c.Group = m.GetGroup()
	for _, b := range m.GetMembers() {
		id, err := decodeVolume(b)
		if err != nil {
			return c, fmt.Errorf("checkpoint %d: %w", c.Number, err)
		}
		c.Members = append(c.Members, id)
	}
	return c, nil
}

func encodePoints(tiers []journal.TierPoints) []*enginev1.TierPoints {
	var out []*enginev1.TierPoints
	for _, t := range tiers {
		out = append(out, &enginev1.TierPoints{IntervalNanoseconds: int64(t.Interval), AgeNanoseconds: int64(t.Age), Points: int64(t.Points), Oldest: stamp(t.Oldest)})
	}
	return out
}

func decodePoints(tiers []*enginev1.TierPoints) []journal.TierPoints {
	var out []journal.TierPoints
	for _, m := range tiers {
		out = append(out, journal.TierPoints{Tier: journal.Tier{Interval: time.Duration(m.GetIntervalNanoseconds()), Age: time.Duration(m.GetAgeNanoseconds())},
			Points: int(m.GetPoints()), Oldest: unstamp(m.GetOldest())})
	}
	return out
}

func encodeState(s State) *enginev1.State {
	out := &enginev1.State{Volume: s.Volume[:], Incarnation: s.Incarnation, Version: s.Version, Term: s.Term, Revision: s.Revision,
		FencedBelow: s.FencedBelow, Leaving: s.Leaving, Device: s.Device, Transport: s.Transport, TransportFallback: s.TransportFallback, Error: s.Error, Reason: string(s.Reason)}
	if st := s.Store; st != nil {
		out.Store = &enginev1.Store{
			SizeBytes: st.SizeBytes, Tip: encodePosition(st.Tip), Durable: encodePosition(st.Durable), Horizon: encodePosition(st.Horizon),
			JournalBytes: st.JournalBytes, IndexExtents: st.IndexExtents, IndexBytes: st.IndexBytes, Timelines: encodeTimelines(st.Timelines),
			Pins: map[string]*enginev1.Position{}, Newest: encodeCheckpoint(st.Newest), Oldest: encodeCheckpoint(st.Oldest),
			FreeBytes: st.FreeBytes, CapacityBytes: st.CapacityBytes, ShortSince: stamp(st.Space.ShortSince),
			Refused: st.Space.Refused, GivenUpBytes: st.Space.GivenUpBytes, PointsGivenUp: st.Space.PointsGivenUp,
			Damaged: int64(st.Damaged), Unrepairable: int64(st.Unrepairable), Damage: st.Damage,
			ThinnedBytes: st.Thinning.ReadBytes, ThinnedToBytes: st.Thinning.WrittenBytes,
			Points: encodePoints(st.Points), ShortByBytes: st.ShortByBytes,
		}
		for _, tier := range st.Thinning.Tiers {
			out.Store.Tiers = append(out.Store.Tiers, &enginev1.TierBytes{IntervalNanoseconds: int64(tier.Interval), Bytes: tier.Bytes})
		}
		for name, at := range st.Pins {
			out.Store.Pins[name] = encodePosition(at)
		}
	}
	if r := s.Replication; r != nil {
		out.Replication = &enginev1.Replication{Peer: r.Peer, Connected: r.Connected, Error: r.Error, LagRecords: r.LagRecords, LagBytes: r.LagBytes,
			LagTime: durationpb.New(r.LagTime), ImageBytes: r.ImageBytes, ImageSizeBytes: r.ImageSizeBytes}
	}
	return out
}

func decodeState(m *enginev1.State) (State, error) {
	volume, err := decodeVolume(m.GetVolume())
	if err != nil {
		return State{}, err
	}
	s := State{Volume: volume, Incarnation: m.GetIncarnation(), Version: m.GetVersion(), Term: m.GetTerm(), Revision: m.GetRevision(),
		FencedBelow: m.GetFencedBelow(), Leaving: m.GetLeaving(), Device: m.GetDevice(), Transport: m.GetTransport(), TransportFallback: m.GetTransportFallback(), Error: m.GetError(), Reason: Reason(m.GetReason())}
	if st := m.GetStore(); st != nil {
		s.Store = &StoreState{
			SizeBytes: st.GetSizeBytes(), Tip: decodePosition(st.GetTip()), Durable: decodePosition(st.GetDurable()), Horizon: decodePosition(st.GetHorizon()),
			JournalBytes: st.GetJournalBytes(), IndexExtents: st.GetIndexExtents(), IndexBytes: st.GetIndexBytes(), Timelines: decodeTimelines(st.GetTimelines()),
			Pins: map[string]journal.Position{}, FreeBytes: st.GetFreeBytes(), CapacityBytes: st.GetCapacityBytes(),
			Space: journal.SpaceStats{ShortSince: unstamp(st.GetShortSince()), Refused: st.GetRefused(), GivenUpBytes: st.GetGivenUpBytes(),
				PointsGivenUp: st.GetPointsGivenUp()},
			Damaged: int(st.GetDamaged()), Unrepairable: int(st.GetUnrepairable()), Damage: st.GetDamage(),
			Thinning: journal.ThinningStats{ReadBytes: st.GetThinnedBytes(), WrittenBytes: st.GetThinnedToBytes()},
			Points:   decodePoints(st.GetPoints()), ShortByBytes: st.GetShortByBytes(),
		}
		for _, tier := range st.GetTiers() {
			s.Store.Thinning.Tiers = append(s.Store.Thinning.Tiers, journal.TierBytes{Interval: time.Duration(tier.GetIntervalNanoseconds()), Bytes: tier.GetBytes()})
		}
		for name, at := range st.GetPins() {
			s.Store.Pins[name] = decodePosition(at)
		}
		if s.Store.Newest, err = decodeCheckpoint(st.GetNewest()); err != nil {
			return State{}, err
		}
		if s.Store.Oldest, err = decodeCheckpoint(st.GetOldest()); err != nil {
			return State{}, err
		}
	}
	if r := m.GetReplication(); r != nil {
		s.Replication = &ReplicationState{Peer: r.GetPeer(), Connected: r.GetConnected(), Error: r.GetError(), LagRecords: r.GetLagRecords(),
			LagBytes: r.GetLagBytes(), LagTime: r.GetLagTime().AsDuration(), ImageBytes: r.GetImageBytes(), ImageSizeBytes: r.GetImageSizeBytes()}
	}
	return s, nil
}
