package adminserver

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// moment is zero for none.
func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func position(p journal.Position) *adminv1.Position {
	return &adminv1.Position{Timeline: uint64(p.Timeline), Seq: uint64(p.Seq)}
}

func point(p group.Point) *adminv1.Point {
	if p.Checkpoint == 0 {
		return nil
	}
	out := &adminv1.Point{Checkpoint: uint64(p.Checkpoint), Time: stamp(p.Time), ValidUntil: stamp(p.ValidUntil), Pins: p.Pins, Members: uint32(len(p.Members))}
	if p.Left {
		out.Left = positions(p.Members)
	}
	return out
}

func listed(p groups.ListedPoint) *adminv1.Point {
	return &adminv1.Point{Checkpoint: uint64(p.Checkpoint), Time: stamp(p.Time), ValidUntil: stamp(p.ValidUntil), Pins: p.Pins, Members: uint32(p.Members),
		Left: positions(p.Left)}
}

// positions are by volume, ascending; none of none.
func positions(at map[journal.VolumeID]journal.Position) []*adminv1.MemberPosition {
	var out []*adminv1.MemberPosition
	for _, id := range slices.SortedFunc(maps.Keys(at), func(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) }) {
		out = append(out, &adminv1.MemberPosition{Volume: id.String(), Position: position(at[id])})
	}
	return out
}

func role(r group.Role) adminv1.Role {
	switch r {
	case group.RolePrimary:
		return adminv1.Role_ROLE_PRIMARY
	case group.RoleReplica:
		return adminv1.Role_ROLE_REPLICA
	}
	return adminv1.Role_ROLE_UNSPECIFIED
}

func rewind(r *group.Rewind) *adminv1.Rewind {
	if r == nil {
		return nil
	}
	return &adminv1.Rewind{To: point(r.To), From: point(r.From), Started: stamp(r.Started), Fork: r.Fork}
}

// group describes a group; silent is why its members do not tell of their points.
func (s *Server) group(g *groups.Summary, silent error) *adminv1.Group {
	st := g.State
	out := &adminv1.Group{
		Name: st.Name, Role: role(st.Role), Term: uint64(st.Term), Peer: st.Settings.ReplicateTo, Members: uint32(len(st.Members)),
		AchievedWindow: durationpb.New(g.AchievedWindow(s.cfg.Clock.Now())), WantedWindow: durationpb.New(st.Settings.Window),
		CheckpointInterval: durationpb.New(st.Settings.CheckpointInterval), Rewind: rewind(st.Rewind), Conditions: s.conditions(g, silent), Orphaned: stamp(st.Orphaned),
	}
	if st.Role == group.RoleReplica {
		out.Peer = st.Source
	}
	if g.Newest != nil {
		out.Newest = point(*g.Newest)
	}
	if g.Sending != nil {
		out.Lag = &adminv1.Lag{}
		var behind time.Duration
		for _, v := range g.Sending.Volumes {
			out.Lag.Records += uint64(v.LagRecords)
			out.Lag.Bytes += uint64(v.LagBytes)
			behind = max(behind, v.LagTime)
		}
		out.Lag.Time = durationpb.New(behind)
	}
	return out
}

// pointGivenUpBy are the members of a replica that have given up, for want of room, what
// they kept of its newest point; empty: none has.
func (s *Server) pointGivenUpBy(g *groups.Summary) string {
	var by []string
	for _, v := range s.cfg.Site.Volumes() {
		if g.State.Role == group.RoleReplica && v.Group == g.State.Name && v.Journal.Space.PointsGivenUp > 0 {
			by = append(by, v.ID.String())
		}
	}
	return strings.Join(by, ", ")
}

func (s *Server) conditions(g *groups.Summary, silent error) []*adminv1.Condition {
	var out []*adminv1.Condition
	add := func(kind string, ok bool, reason, message string) {
		out = append(out, &adminv1.Condition{Type: kind, Ok: ok, Reason: reason, Message: message})
	}
	switch {
	case g.State.Pending != nil:
		add("Ready", false, "OperationPending", "a "+string(g.State.Pending.Kind)+" was interrupted and could not be finished: see the site's log, then restart the site")
	case g.Stats.LastError != nil:
		add("Ready", false, "CheckpointMissed", g.Stats.LastError.Error())
	case silent != nil:
		add("Ready", false, "MembersSilent", "members do not tell of their recovery points: "+silent.Error())
	case g.Newest == nil && g.Resting:
		add("Ready", true, "Resting", "no volume of the group is in use: its newest point stays true")
	case g.Newest == nil && s.pointGivenUpBy(g) != "":
		add("Ready", false, "PointGivenUp", "the newest recovery point that all members had was given up for want of room, on volumes "+s.pointGivenUpBy(g)+
			": there is one again when all members have been fed as far; give the file system more room")
	case g.Newest == nil:
		add("Ready", false, "NoRecoveryPoint", "no recovery point exists yet: wait for the first checkpoint")
	case g.PointsAhead(s.cfg.Clock.Now()) != "":
		add("Ready", false, "PointsAhead", g.PointsAhead(s.cfg.Clock.Now()))
	default:
		add("Ready", true, "RecoveryPoint", "recovery points are being taken")
	}
	if g.IsWindowShort(s.cfg.Clock.Now()) {
		add("WindowAchieved", false, "HistoryTooShort", "history reaches back less far than wanted: "+g.WindowAdvice())
	}
	for _, v := range s.cfg.Site.Volumes() {
		if v.Group == g.State.Name && v.Journal.Space.IsShort() {
			add("Room", false, "BackingFull", "volume "+v.ID.String()+": "+v.Journal.Space.String())
		}
		if v.Group == g.State.Name && v.DeviceErr != nil {
			add("DevicesServed", false, "DeviceNotServed", fmt.Sprintf("volume %s: %v", v.ID, v.DeviceErr))
		}
		if n := v.Journal.Damaged; v.Group == g.State.Name && n > 0 {
			add("Intact", false, "Damaged", fmt.Sprintf("volume %s is damaged in %d places, of which reads fail: see %s", v.ID, n, s.command("volume scrub "+v.ID.String())))
		}
	}
	if m := g.Sending; m != nil {
		if err := sendingError(m); errors.Is(err, journal.ErrFull) {
			add("Replicating", false, "PeerFull", "site "+m.Peer+" has no room and keeps the points that it has: give it more room there, it catches up by itself: "+err.Error())
		} else if err != nil {
			add("Replicating", false, "Disconnected", "site "+m.Peer+" is not being fed: "+err.Error())
		} else {
			add("Replicating", true, "Connected", "site "+m.Peer+" is being fed")
		}
	}
	if to := g.State.Settings.ReplicateTo; g.State.Role == group.RolePrimary && to != "" && g.Sending == nil {
		if _, isPeer := s.cfg.Site.Peers()[to]; !isPeer { // also of a group at rest: it may have something that was never sent
			add("Replicating", false, "NoPeer", "the group is to be replicated to site "+to+", which is no peer of this one")
		}
	}
	if g.State.Role == group.RoleReplica {
		ok, reason, message := s.fed(g)
		add("Replicating", ok, reason, message)
	}
	return out
}

// fed tells how a replica is fed.
func (s *Server) fed(g *groups.Summary) (ok bool, reason, message string) {
	source := g.State.Source
	if !g.State.Orphaned.IsZero() {
		return false, "Orphaned", "the group has ended at site " + source + ": fail over to what is here, or remove it, see `orphans`"
	}
	if g.Receiving == nil {
		return false, "Disconnected", "the replica has not been started"
	}
	if since := g.Receiving.SilentSince(s.cfg.Clock.Now()); !since.IsZero() {
		return false, "Disconnected", "site " + source + " has not been heard of since " + since.UTC().Format(time.RFC3339)
	}
	return true, "FedByPeer", "site " + source + " feeds this replica"
}

func sendingError(m *replication.Metrics) error {
	if m.LastError != nil {
		return m.LastError
	}
	for _, v := range m.Volumes {
		if !v.Connected && v.LastError != nil {
			return v.LastError
		}
	}
	return nil
}

func (s *Server) volume(v Volume) *adminv1.Volume {
	out := &adminv1.Volume{
		Id: v.ID.String(), Name: v.Name, Group: v.Group, SizeBytes: v.SizeBytes, Device: v.Device, Store: v.Store, Claim: v.Claim, Node: v.Node, Orphaned: v.Orphaned,
		Tip: position(v.Tip), Durable: position(v.Durable), Horizon: position(v.Horizon),
		JournalBytes: v.Journal.JournalBytes, IndexExtents: v.Journal.IndexExtents, IndexBytes: v.Journal.IndexBytes,
	}
	out.Tiers, out.ThinnedBytes = tierBytes(&v.Journal.Thinning), v.Journal.Thinning.ThinnedBytes()
	out.Damaged, out.Unrepairable = uint32(v.Journal.Damaged), uint32(v.Journal.Repairs.Unrepairable)
	if v.Err != nil {
		out.Error = v.Err.Error()
	}
	out.Transport = v.Transport
	if v.Fallback != nil {
		out.TransportFallback = v.Fallback.Error()
	}
	if v.DeviceErr != nil {
		out.DeviceError = v.DeviceErr.Error()
	}
	st, err := s.cfg.Site.Groups().State(v.Group)
	if err != nil {
		return out
	}
	out.Role = role(st.Role)
	if sending := s.sending(v.Group); sending != nil {
		for _, m := range sending.Volumes {
			if m.Volume == v.ID {
				out.Lag = &adminv1.Lag{Records: uint64(m.LagRecords), Bytes: uint64(m.LagBytes), Time: durationpb.New(m.LagTime)}
			}
		}
	}
	return out
}

func timelines(v Volume) []*adminv1.Timeline {
	var out []*adminv1.Timeline
	for _, l := range v.Timelines {
		line := &adminv1.Timeline{Id: uint64(l.ID), Created: stamp(l.Created), Reason: l.Reason, Active: l.ID == v.Tip.Timeline}
		if l.Parent.Timeline != 0 { // none: it is the root
			line.Parent = position(l.Parent)
		}
		out = append(out, line)
	}
	return out
}

// tellOf adds what one group's sender knows of its peer.
func tellOf(p *adminv1.Peer, sending *replication.Metrics) {
	if err := sendingError(sending); err != nil {
		p.LastError = err.Error()
	} else if !sending.Announced.IsZero() {
		p.Connected = true
	}
	if heard := sending.Announced; !heard.IsZero() && heard.After(p.GetSince().AsTime()) {
		p.Since = stamp(heard)
	}
}

// peers tells of each configured site whether any group reaches it.
func (s *Server) peers() []*adminv1.Peer {
	byName := map[string]*adminv1.Peer{}
	for name, address := range s.cfg.Site.Peers() {
		byName[name] = &adminv1.Peer{Site: name, Address: address}
	}
	for _, name := range s.cfg.Site.Groups().Groups() {
		sending := s.sending(name)
		if sending == nil || byName[sending.Peer] == nil {
			continue
		}
		tellOf(byName[sending.Peer], sending)
	}
	var out []*adminv1.Peer
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out
}
