package main

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// The documents below are what -o json and -o yaml print. They are a public
// interface, documented in output.md, and apart from the protobuf messages so
// that the wire may change without them: a field may be added, never renamed or
// given another unit. Every field is always there; null means unknown or none.

type statusDocument struct {
	Site    string           `json:"site"`
	Version string           `json:"version"`
	Started *string          `json:"started"`
	Peers   []peerDocument   `json:"peers"`
	Groups  []groupDocument  `json:"groups"`
	Volumes []volumeDocument `json:"volumes"`
}

type peerDocument struct {
	Site      string  `json:"site"`
	Address   string  `json:"address"`
	Connected bool    `json:"connected"`
	LastError string  `json:"lastError"`
	Since     *string `json:"since"`
}

type groupDocument struct {
	Name               string              `json:"name"`
	Role               string              `json:"role"`
	Term               uint64              `json:"term"`
	Peer               string              `json:"peer"`
	Members            uint32              `json:"members"`
	Newest             *pointDocument      `json:"newest"`
	AchievedWindow     *string             `json:"achievedWindow"`
	WantedWindow       *string             `json:"wantedWindow"`
	CheckpointInterval *string             `json:"checkpointInterval"`
	Lag                *lagDocument        `json:"lag"`
	Rewind             *rewindDocument     `json:"rewind"`
	Conditions         []conditionDocument `json:"conditions"`
}

type lagDocument struct {
	Records uint64  `json:"records"`
	Bytes   uint64  `json:"bytes"`
	Time    *string `json:"time"`
}

type rewindDocument struct {
	To      *pointDocument `json:"to"`
	From    *pointDocument `json:"from"`
	Started *string        `json:"started"`
	Fork    string         `json:"fork"`
}

type conditionDocument struct {
	Type    string `json:"type"`
	OK      bool   `json:"ok"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type pointDocument struct {
	Checkpoint uint64   `json:"checkpoint"`
	Time       *string  `json:"time"`
	ValidUntil *string  `json:"validUntil"`
	Pins       []string `json:"pins"`
	Members    uint32   `json:"members"`

	Left []memberPositionDocument `json:"left"`
}

type memberPositionDocument struct {
	Volume   string  `json:"volume"`
	Position *string `json:"position"`
}

type volumeDocument struct {
	ID           string       `json:"id"`
	Name         string       `json:"name"`
	Group        string       `json:"group"`
	SizeBytes    int64        `json:"sizeBytes"`
	Role         string       `json:"role"`
	Device       string       `json:"device"`
	Tip          *string      `json:"tip"`
	Durable      *string      `json:"durable"`
	Horizon      *string      `json:"horizon"`
	JournalBytes int64        `json:"journalBytes"`
	IndexExtents int64        `json:"indexExtents"`
	IndexBytes   int64        `json:"indexBytes"`
	Store        string       `json:"store"`
	Lag          *lagDocument `json:"lag"`
	Error        string       `json:"error"`
	// Transport and its fallback are empty where they are not known.
	Transport         string `json:"transport"`
	TransportFallback string `json:"transportFallback"`
	// DeviceError is why the volume is attached and its device not served.
	DeviceError string `json:"deviceError"`
	// Damaged is the number of places, Unrepairable how many of them the peer could not help with.
	Damaged      uint32 `json:"damaged"`
	Unrepairable uint32 `json:"unrepairable"`
	// Tiers are what JournalBytes are of; ThinnedBytes went since the store was opened.
	Tiers        []tierBytesDocument `json:"tiers"`
	ThinnedBytes int64               `json:"thinnedBytes"`
	// Claim and Node are of a cluster, and empty elsewhere.
	Claim string `json:"claim"`
	Node  string `json:"node"`
}

type timelineDocument struct {
	ID      string  `json:"id"`
	Parent  *string `json:"parent"`
	Created *string `json:"created"`
	Reason  string  `json:"reason"`
	Active  bool    `json:"active"`
}

type viewDocument struct {
	ID      string           `json:"id"`
	Group   string           `json:"group"`
	Point   *pointDocument   `json:"point"`
	Exports []exportDocument `json:"exports"`
	Took    *string          `json:"took"`
}

type exportDocument struct {
	VolumeID   string `json:"volumeID"`
	VolumeName string `json:"volumeName"`
	NBDSocket  string `json:"nbdSocket"`
	NBDURI     string `json:"nbdURI"`
	Claim      string `json:"claim"`
}

// each converts a list, and an absent one to an empty one, never null.
func each[M, D any](messages []M, convert func(M) D) []D {
	documents := make([]D, 0, len(messages))
	for _, m := range messages {
		documents = append(documents, convert(m))
	}
	return documents
}

// timeText is RFC 3339 in UTC with as many fractional digits as there are.
func timeText(t *timestamppb.Timestamp) *string {
	if t == nil {
		return nil
	}
	text := t.AsTime().UTC().Format(time.RFC3339Nano)
	return &text
}

// durationText is what time.ParseDuration reads, exact to the nanosecond.
func durationText(d *durationpb.Duration) *string {
	if d == nil {
		return nil
	}
	text := d.AsDuration().String()
	return &text
}

// roleText is "primary", "replica" or "unknown".
func roleText(role adminv1.Role) string {
	switch role {
	case adminv1.Role_ROLE_PRIMARY:
		return "primary"
	case adminv1.Role_ROLE_REPLICA:
		return "replica"
	default:
		return "unknown"
	}
}

func statusOf(m *adminv1.GetStatusResponse) statusDocument {
	return statusDocument{
		Site: m.GetSite(), Version: m.GetVersion(), Started: timeText(m.GetStarted()),
		Peers:   each(m.GetPeers(), peerOf),
		Groups:  each(m.GetGroups(), groupOf),
		Volumes: each(m.GetVolumes(), volumeOf),
	}
}

func peerOf(m *adminv1.Peer) peerDocument {
	return peerDocument{
		Site: m.GetSite(), Address: m.GetAddress(), Connected: m.GetConnected(),
		LastError: m.GetLastError(), Since: timeText(m.GetSince()),
	}
}

func groupOf(m *adminv1.Group) groupDocument {
	return groupDocument{
		Name: m.GetName(), Role: roleText(m.GetRole()), Term: m.GetTerm(), Peer: m.GetPeer(), Members: m.GetMembers(),
		Newest:             pointOf(m.GetNewest()),
		AchievedWindow:     durationText(m.GetAchievedWindow()),
		WantedWindow:       durationText(m.GetWantedWindow()),
		CheckpointInterval: durationText(m.GetCheckpointInterval()),
		Lag:                lagOf(m.GetLag()),
		Rewind:             rewindOf(m.GetRewind()),
		Conditions:         each(m.GetConditions(), conditionOf),
	}
}

func lagOf(m *adminv1.Lag) *lagDocument {
	if m == nil {
		return nil
	}
	return &lagDocument{Records: m.GetRecords(), Bytes: m.GetBytes(), Time: durationText(m.GetTime())}
}

func rewindOf(m *adminv1.Rewind) *rewindDocument {
	if m == nil {
		return nil
	}
	return &rewindDocument{To: pointOf(m.GetTo()), From: pointOf(m.GetFrom()), Started: timeText(m.GetStarted()), Fork: m.GetFork()}
}

func conditionOf(m *adminv1.Condition) conditionDocument {
	return conditionDocument{Type: m.GetType(), OK: m.GetOk(), Reason: m.GetReason(), Message: m.GetMessage()}
}

func pointOf(m *adminv1.Point) *pointDocument {
	if m == nil {
		return nil
	}
	return &pointDocument{
		Checkpoint: m.GetCheckpoint(), Time: timeText(m.GetTime()), ValidUntil: timeText(m.GetValidUntil()),
		Pins: append([]string{}, m.GetPins()...), Members: m.GetMembers(), Left: each(m.GetLeft(), memberPositionOf),
	}
}

func memberPositionOf(m *adminv1.MemberPosition) memberPositionDocument {
	return memberPositionDocument{m.GetVolume(), positionOf(m.GetPosition())}
}

func volumeOf(m *adminv1.Volume) volumeDocument {
	return volumeDocument{
		ID: m.GetId(), Name: m.GetName(), Group: m.GetGroup(), SizeBytes: m.GetSizeBytes(),
		Role: roleText(m.GetRole()), Device: m.GetDevice(),
		Tip: positionOf(m.GetTip()), Durable: positionOf(m.GetDurable()), Horizon: positionOf(m.GetHorizon()),
		JournalBytes: m.GetJournalBytes(), IndexExtents: m.GetIndexExtents(), IndexBytes: m.GetIndexBytes(),
		Store: m.GetStore(), Lag: lagOf(m.GetLag()), Error: m.GetError(),
		Transport: m.GetTransport(), TransportFallback: m.GetTransportFallback(), DeviceError: m.GetDeviceError(), Claim: m.GetClaim(), Node: m.GetNode(),
		Damaged: m.GetDamaged(), Unrepairable: m.GetUnrepairable(),
		Tiers: each(m.GetTiers(), tierBytesOf), ThinnedBytes: m.GetThinnedBytes(),
	}
}

func timelineOf(m *adminv1.Timeline) timelineDocument {
	return timelineDocument{
		ID: timelineName(m.GetId()), Parent: positionOf(m.GetParent()), Created: timeText(m.GetCreated()),
		Reason: m.GetReason(), Active: m.GetActive(),
	}
}

func viewOf(m *adminv1.View) viewDocument {
	return viewDocument{
		ID: m.GetId(), Group: m.GetGroup(), Point: pointOf(m.GetPoint()),
		Exports: each(m.GetExports(), exportOf), Took: durationText(m.GetTook()),
	}
}

func exportOf(m *adminv1.ViewExport) exportDocument {
	return exportDocument{VolumeID: m.GetVolumeId(), VolumeName: m.GetVolumeName(), NBDSocket: m.GetNbdSocket(), NBDURI: m.GetNbdUri(), Claim: m.GetClaim()}
}

// checkpointName is what --at accepts for p.
func checkpointName(p *adminv1.Point) string { return strconv.FormatUint(p.GetCheckpoint(), 10) }

func pinList(pins []string) string { return strings.Join(pins, ",") }
