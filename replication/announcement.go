package replication

import (
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Announcement is what a primary tells the replica's site about a group.
type Announcement struct {
	Group string // 1 to MaxNameBytes bytes
	Term  group.Term
	// Settings of the group; ReplicateTo does not travel.
	Settings group.Settings
	Members  []Member // ascending by volume, at most MaxMembers
	// Deleted are volumes of the group that are gone for good, while a
	// checkpoint may name them; ascending, at most MaxMembers.
	Deleted []journal.VolumeID
	// NewestCheckpoint that the group has taken; 0 when none. The replica
	// holds it once its members' stores do.
	NewestCheckpoint journal.CheckpointNumber
	// ValidUntil is the newest moment that NewestCheckpoint still describes:
	// a group that is idle takes no checkpoints, and its newest one ages well.
	// Zero when there is no checkpoint.
	ValidUntil time.Time
	// Ended says that the group has no members at its primary any more; the
	// rest but Group and Term is zero.
	Ended bool
	// Resting says that nothing of the group is in use, and that it is not
	// announced again before it is.
	Resting bool
}

// Progress is what a source knows of the way of one volume's records.
type Progress struct {
	Connected bool // the replica has answered and the stream is open
	// LagRecords are durable at the source and not acknowledged; LagBytes
	// estimates their payload.
	LagRecords, LagBytes int64
	// ImageBytes of ImageSizeBytes have been passed of an image that is being
	// sent; both 0 when there is none.
	ImageBytes, ImageSizeBytes int64
}

// Member is one volume of a group.
type Member struct {
	Volume    journal.VolumeID
	Name      string // at most MaxNameBytes bytes
	SizeBytes int64  // 1 to MaxVolumeBytes, whole sectors
	// Attributes are what the volume's user needs to find it again at the
	// other site; see CheckAttributes for their limits. Whoever keeps members
	// keeps all of them. Treated as immutable.
	Attributes map[string]string
	// Progress is nil while nothing sends the volume, and from peers that do
	// not tell.
	Progress *Progress
}

// Keys of Member.Attributes that this version knows: what the replica's site
// makes a claim of when the group fails over. docs/replication.md specifies
// their values.
const (
	AttributeNamespace   = "namespace"
	AttributeName        = "name"
	AttributeClass       = "class"
	AttributeAccessModes = "accessModes"
	AttributeVolumeMode  = "volumeMode"
	AttributeFSType      = "fsType"
	AttributeBlockBytes  = "blockBytes"
)

// CheckAttributes returns an error that matches ErrLimit, or ErrProtocol for a
// key without a name or for text that is not UTF-8, when a peer would refuse
// the attributes of a member.
func CheckAttributes(attributes map[string]string) error {
	if len(attributes) > MaxAttributes {
		return fmt.Errorf("%d attributes, want at most %d: %w", len(attributes), MaxAttributes, ErrLimit)
	}
	for key, value := range attributes {
		if key == "" || !utf8.ValidString(key) || !utf8.ValidString(value) {
			return fmt.Errorf("attribute %q is not text with a name: %w", key, ErrProtocol)
		}
		if len(key) > MaxAttributeKeyBytes {
			return fmt.Errorf("key of an attribute has %d bytes, want at most %d: %w", len(key), MaxAttributeKeyBytes, ErrLimit)
		}
	}
	if n := attributesBytes(attributes); n > MaxAttributesBytes {
		return fmt.Errorf("attributes count %d bytes, want at most %d: %w", n, MaxAttributesBytes, ErrLimit)
	}
	return nil
}

// attributesBytes is what attributes count.
func attributesBytes(attributes map[string]string) int {
	n := 0
	for key, value := range attributes {
		n += len(key) + len(value) + attributeFrameBytes
	}
	return n
}

// member returns the member of that id.
func (a *Announcement) member(volume journal.VolumeID) (Member, bool) {
	for _, m := range a.Members {
		if m.Volume == volume {
			return m, true
		}
	}
	return Member{}, false
}

func encodeAnnouncement(a Announcement) *replicationv1.AnnounceRequest {
	req := &replicationv1.AnnounceRequest{
		Version: ProtocolVersion,
		Group:   a.Group,
		Term:    uint64(a.Term),
		Settings: &replicationv1.Settings{
			CheckpointInterval: durationpb.New(a.Settings.CheckpointInterval),
			BarrierTimeout:     durationpb.New(a.Settings.BarrierTimeout),
			Window:             durationpb.New(a.Settings.Window),
			JournalBytes:       a.Settings.JournalBytes,
			History:            a.Settings.History,
		},
		NewestCheckpoint: uint64(a.NewestCheckpoint),
		Ended:            a.Ended,
		Resting:          a.Resting,
	}
	if !a.ValidUntil.IsZero() {
		req.ValidUntil = timestamppb.New(a.ValidUntil)
	}
	for _, m := range a.Members {
		req.Members = append(req.Members, &replicationv1.Member{Volume: m.Volume[:], Name: m.Name, SizeBytes: m.SizeBytes, Attributes: m.Attributes,
			Progress: encodeProgress(m.Progress)})
	}
	for _, id := range a.Deleted[:min(len(a.Deleted), MaxMembers)] {
		req.Deleted = append(req.Deleted, id[:])
	}
	return req
}

func encodeProgress(p *Progress) *replicationv1.Progress {
	if p == nil {
		return nil
	}
	return &replicationv1.Progress{Connected: p.Connected, LagRecords: uint64(max(0, p.LagRecords)), LagBytes: uint64(max(0, p.LagBytes)),
		ImageBytes: p.ImageBytes, ImageSizeBytes: p.ImageSizeBytes}
}

// decodeProgress takes what is only shown as it is, within what can be shown.
func decodeProgress(m *replicationv1.Progress) *Progress {
	if m == nil {
		return nil
	}
	return &Progress{Connected: m.GetConnected(), LagRecords: int64(min(m.GetLagRecords(), math.MaxInt64)), LagBytes: int64(min(m.GetLagBytes(), math.MaxInt64)),
		ImageBytes: max(0, m.GetImageBytes()), ImageSizeBytes: max(0, m.GetImageSizeBytes())}
}

func decodeAnnouncement(req *replicationv1.AnnounceRequest) (Announcement, error) {
	if err := checkVersion(req.GetVersion()); err != nil {
		return Announcement{}, err
	}
	a := Announcement{
		Group:            req.GetGroup(),
		Term:             group.Term(req.GetTerm()),
		NewestCheckpoint: journal.CheckpointNumber(req.GetNewestCheckpoint()),
		Ended:            req.GetEnded(),
		Resting:          req.GetResting(),
	}
	if a.Ended && len(req.GetMembers()) > 0 {
		return Announcement{}, fmt.Errorf("group %q has ended, with %d members: %w", a.Group, len(req.GetMembers()), ErrProtocol)
	}
	if err := checkGroup(a.Group, req.GetTerm()); err != nil {
		return Announcement{}, err
	}
	if stamp := req.GetValidUntil(); stamp != nil {
		if err := stamp.CheckValid(); err != nil {
			return Announcement{}, fmt.Errorf("read valid_until: %v: %w", err, ErrProtocol)
		}
		a.ValidUntil = stamp.AsTime()
	}
	var err error
	if a.Settings, err = decodeSettings(req.GetSettings()); err != nil {
		return Announcement{}, err
	}
	if a.Members, err = decodeMembers(req.GetMembers()); err != nil {
		return Announcement{}, err
	}
	a.Deleted, err = decodeDeleted(req.GetDeleted())
	return a, err
}

func decodeDeleted(from [][]byte) ([]journal.VolumeID, error) {
	if len(from) > MaxMembers {
		return nil, fmt.Errorf("%d deleted members, want at most %d: %w", len(from), MaxMembers, ErrLimit)
	}
	var deleted []journal.VolumeID
	for i, b := range from {
		volume, err := decodeVolume(b)
		if err != nil {
			return nil, err
		}
		if i > 0 && string(from[i-1]) >= string(b) {
			return nil, fmt.Errorf("deleted member %s is not in ascending order: %w", volume, ErrProtocol)
		}
		deleted = append(deleted, volume)
	}
	return deleted, nil
}

func decodeSettings(s *replicationv1.Settings) (group.Settings, error) {
	settings := group.Settings{JournalBytes: s.GetJournalBytes(), History: s.GetHistory()}
	if _, err := journal.ParseHistory(settings.History); err != nil {
		return group.Settings{}, fmt.Errorf("%w: %w", err, ErrProtocol)
	}
	if settings.JournalBytes < 0 {
		return group.Settings{}, fmt.Errorf("journal of %d bytes: %w", settings.JournalBytes, ErrProtocol)
	}
	for _, field := range []struct {
		name string
		from *durationpb.Duration
		to   *time.Duration
	}{
		{"checkpoint_interval", s.GetCheckpointInterval(), &settings.CheckpointInterval},
		{"barrier_timeout", s.GetBarrierTimeout(), &settings.BarrierTimeout},
		{"window", s.GetWindow(), &settings.Window},
	} {
		if field.from == nil {
			continue
		}
		*field.to = field.from.AsDuration()
		if field.from.CheckValid() != nil || *field.to < 0 {
			return group.Settings{}, fmt.Errorf("setting %s of %v: %w", field.name, *field.to, ErrProtocol)
		}
	}
	return settings, nil
}

func decodeMembers(from []*replicationv1.Member) ([]Member, error) {
	if len(from) > MaxMembers {
		return nil, fmt.Errorf("%d members, want at most %d: %w", len(from), MaxMembers, ErrLimit)
	}
	members, attributes := make([]Member, 0, len(from)), 0
	for i, m := range from {
		volume, err := decodeVolume(m.GetVolume())
		if err != nil {
			return nil, err
		}
		if len(m.GetName()) > MaxNameBytes {
			return nil, fmt.Errorf("name of volume %s has %d bytes, want at most %d: %w", volume, len(m.GetName()), MaxNameBytes, ErrLimit)
		}
		if err := checkVolumeBytes(m.GetSizeBytes()); err != nil {
			return nil, err
		}
		if i > 0 && string(from[i-1].GetVolume()) >= string(volume[:]) {
			return nil, fmt.Errorf("member %s is not in ascending order: %w", volume, ErrProtocol)
		}
		if err := CheckAttributes(m.GetAttributes()); err != nil {
			return nil, fmt.Errorf("read attributes of volume %s: %w", volume, err)
		}
		if attributes += attributesBytes(m.GetAttributes()); attributes > MaxGroupAttributesBytes {
			return nil, fmt.Errorf("attributes of all members count more than %d bytes: %w", MaxGroupAttributesBytes, ErrLimit)
		}
		members = append(members, Member{Volume: volume, Name: m.GetName(), SizeBytes: m.GetSizeBytes(), Attributes: m.GetAttributes(),
			Progress: decodeProgress(m.GetProgress())})
	}
	return members, nil
}
