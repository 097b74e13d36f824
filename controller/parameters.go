package controller

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/bytesize"
	"github.com/lockstep-csi/lockstep/journal"
)

// Keys of CreateVolume's parameters (StorageClass parameters).
const (
	// ParameterGroup names the consistency group. Default: a group of the
	// volume's own, named like the volume; naming that one joins it.
	ParameterGroup = "group"
	// ParameterCheckpointInterval is the time between automatic checkpoints,
	// 100ms to 1h. Default 1s. Mutable.
	ParameterCheckpointInterval = "checkpointInterval"
	// ParameterWindow is how far back history is wanted, 1m to 3650d. Default
	// 24h. Mutable.
	ParameterWindow = "window"
	// ParameterHistory says which checkpoints are kept at which age, as in
	// 1s:1h,1m:24h,1h:7d; its last age is the window. Default: every one for
	// the window. Mutable.
	ParameterHistory = "history"
	// ParameterJournalSize is the journal budget of each member, for example
	// 10Gi; at least 64Mi, or 0 for a default by the volume's size. Default 0.
	// Mutable.
	ParameterJournalSize = "journalSize"
	// ParameterReplicateTo names the peer site. Default: none.
	ParameterReplicateTo = "replicateTo"
	// ParameterBarrierTimeout bounds how long writes may wait for a
	// checkpoint, 1ms to 10s. Default 50ms.
	ParameterBarrierTimeout = "barrierTimeout"
	// ParameterBlockSize is the device's logical block size, 512 or 4096.
	// Default: the source volume's, else 512.
	ParameterBlockSize = "blockSize"
	// ParameterFSType is the file system, ext4 or xfs, for callers that name
	// none in the volume capability. Default ext4.
	ParameterFSType = "csi.storage.k8s.io/fstype"
	// ParameterBackingClass is the storage class that the volume lives on, and
	// ParameterJournalClass one of its own for the journal. For sites in
	// Kubernetes, where the first is required.
	ParameterBackingClass = "backingStorageClass"
	ParameterJournalClass = "journalStorageClass"
	// ParameterMember chooses, when a volume is made from a snapshot, which
	// member's image at the snapshot's point it gets: a volume id or name.
	// Default: the volume that the snapshot was asked of.
	ParameterMember = "lockstep.dev/member"
)

// ParameterAsOf is the one key of CreateSnapshot's and
// CreateVolumeGroupSnapshot's parameters (VolumeSnapshotClass): an RFC 3339
// time or a checkpoint number. The snapshot is then of that moment, not of the
// present.
const ParameterAsOf = "asOf"

// parameterDeletion is what the External Storage suite of Kubernetes puts among
// the parameters of its group snapshot classes, beside the class's field of that
// name, which is the one that counts. It has the field's values.
const parameterDeletion = "deletionPolicy"

// Keys that only describe a request; accepted and not interpreted.
var (
	volumeDescriptions   = []string{"csi.storage.k8s.io/pvc/name", "csi.storage.k8s.io/pvc/namespace", "csi.storage.k8s.io/pv/name"}
	snapshotDescriptions = []string{
		"csi.storage.k8s.io/volumesnapshot/name", "csi.storage.k8s.io/volumesnapshot/namespace",
		"csi.storage.k8s.io/volumesnapshotcontent/name",
		"csi.storage.k8s.io/volumegroupsnapshot/name", "csi.storage.k8s.io/volumegroupsnapshot/namespace",
		"csi.storage.k8s.io/volumegroupsnapshotcontent/name",
	}
)

// Limits of the settings.
const (
	minCheckpointInterval = group.MinCheckpointInterval
	maxCheckpointInterval = time.Hour
	minWindow             = time.Minute
	maxWindow             = 3650 * day
	minBarrierTimeout     = time.Millisecond
	maxBarrierTimeout     = group.MaxBarrierTimeout
	minJournalBytes       = 64 << 20
	maxJournalBytes       = 1 << 50
	day                   = 24 * time.Hour
)

// settingsPatch holds the settings that a request names; nil: not named.
type settingsPatch struct {
	CheckpointInterval *time.Duration
	BarrierTimeout     *time.Duration
	Window             *time.Duration
	History            *string
	JournalBytes       *int64
	ReplicateTo        *string
}

// apply returns settings with the named ones replaced. It does not check how
// they go together; checkSettings does.
func (p *settingsPatch) apply(settings group.Settings) group.Settings {
	before := settings
	set(&settings.CheckpointInterval, p.CheckpointInterval)
	set(&settings.BarrierTimeout, p.BarrierTimeout)
	set(&settings.Window, p.Window)
	set(&settings.History, p.History)
	set(&settings.JournalBytes, p.JournalBytes)
	set(&settings.ReplicateTo, p.ReplicateTo)
	return agree(before, settings, p.Window != nil, p.History != nil)
}

func checkSettings(settings group.Settings) error {
	if err := settings.Validate(); err != nil {
		return invalid("%v", err)
	}
	return nil
}

func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}

// volumeParameters are CreateVolume's parameters, understood.
type volumeParameters struct {
	Group      string
	Settings   settingsPatch
	BlockBytes int // 0: not named
	FSType     string
	Member     string
	// Of what the volume lives on; empty: not named.
	BackingClass string
	JournalClass string
}

// parameter is one key and what its value does.
type parameter[T any] struct {
	key string
	set func(into *T, value string) error
}

// mutableParameters are those of ControllerModifyVolume (VolumeAttributesClass).
var mutableParameters = []parameter[settingsPatch]{
	{ParameterCheckpointInterval, func(p *settingsPatch, v string) (err error) {
		p.CheckpointInterval, err = parseDuration(v, minCheckpointInterval, maxCheckpointInterval)
		return err
	}},
	{ParameterWindow, func(p *settingsPatch, v string) (err error) {
		p.Window, err = parseDuration(v, minWindow, maxWindow)
		return err
	}},
	{ParameterHistory, func(p *settingsPatch, v string) (err error) {
		p.History, err = parseHistory(v)
		return err
	}},
	{ParameterJournalSize, func(p *settingsPatch, v string) (err error) {
		p.JournalBytes, err = parseJournalSize(v)
		return err
	}},
}

// creationParameters are those that only CreateVolume takes.
var creationParameters = []parameter[volumeParameters]{
	{ParameterGroup, func(p *volumeParameters, v string) error {
		p.Group = v
		return validName("group", v)
	}},
	{ParameterReplicateTo, func(p *volumeParameters, v string) error {
		p.Settings.ReplicateTo = &v
		return validName("site", v)
	}},
	{ParameterBarrierTimeout, func(p *volumeParameters, v string) (err error) {
		p.Settings.BarrierTimeout, err = parseDuration(v, minBarrierTimeout, maxBarrierTimeout)
		return err
	}},
	{ParameterBlockSize, func(p *volumeParameters, v string) error {
		if v != "512" && v != "4096" {
			return fmt.Errorf("want 512 or 4096")
		}
		p.BlockBytes, _ = strconv.Atoi(v)
		return nil
	}},
	{ParameterFSType, func(p *volumeParameters, v string) error {
		p.FSType = v
		return validFSType(v)
	}},
	{ParameterBackingClass, func(p *volumeParameters, v string) error {
		p.BackingClass = v
		return validName("storage class", v)
	}},
	{ParameterJournalClass, func(p *volumeParameters, v string) error {
		p.JournalClass = v
		return validName("storage class", v)
	}},
	{ParameterMember, func(p *volumeParameters, v string) error {
		p.Member = v
		return validName("member", v)
	}},
}

// ParameterKeys returns every key that CreateVolume takes, in ascending order.
func ParameterKeys() []string {
	keys := MutableParameterKeys()
	for _, p := range creationParameters {
		keys = append(keys, p.key)
	}
	slices.Sort(keys)
	return keys
}

// MutableParameterKeys returns the keys that ControllerModifyVolume and the
// mutable parameters of CreateVolume take, in ascending order.
func MutableParameterKeys() []string {
	var keys []string
	for _, p := range mutableParameters {
		keys = append(keys, p.key)
	}
	slices.Sort(keys)
	return keys
}

// parseVolumeParameters understands CreateVolume's parameters.
func parseVolumeParameters(parameters map[string]string) (volumeParameters, error) {
	var out volumeParameters
	rest := maps.Clone(parameters)
	for _, key := range volumeDescriptions {
		delete(rest, key)
	}
	if err := take(rest, mutableParameters, &out.Settings); err != nil {
		return out, err
	}
	if err := take(rest, creationParameters, &out); err != nil {
		return out, err
	}
	return out, refuseUnknown(rest, ParameterKeys())
}

// parseMutableParameters understands what may be changed later.
func parseMutableParameters(parameters map[string]string) (settingsPatch, error) {
	var out settingsPatch
	rest := maps.Clone(parameters)
	if err := take(rest, mutableParameters, &out); err != nil {
		return out, err
	}
	return out, refuseUnknown(rest, MutableParameterKeys())
}

// parseSnapshotParameters understands a snapshot's parameters.
func parseSnapshotParameters(parameters map[string]string) (Moment, error) {
	rest := maps.Clone(parameters)
	for _, key := range snapshotDescriptions {
		delete(rest, key)
	}
	if policy, ok := rest[parameterDeletion]; ok {
		if policy != "Delete" && policy != "Retain" {
			return Moment{}, invalid("parameter %s=%q: want Delete or Retain, and as a field of the class", parameterDeletion, policy)
		}
		delete(rest, parameterDeletion)
	}
	var at Moment
	if text, ok := rest[ParameterAsOf]; ok {
		var err error
		if at, err = parseMoment(text); err != nil {
			return at, invalid("parameter %s=%q: %v", ParameterAsOf, text, err)
		}
		delete(rest, ParameterAsOf)
	}
	return at, refuseUnknown(rest, []string{ParameterAsOf})
}

// take sets and removes the keys of table.
func take[T any](rest map[string]string, table []parameter[T], into *T) error {
	for _, p := range table {
		value, ok := rest[p.key]
		if !ok {
			continue
		}
		if err := p.set(into, value); err != nil {
			return invalid("parameter %s=%q: %v", p.key, value, err)
		}
		delete(rest, p.key)
	}
	return nil
}

func refuseUnknown(rest map[string]string, known []string) error {
	if len(rest) == 0 {
		return nil
	}
	unknown := slices.Sorted(maps.Keys(rest))
	return invalid("unknown parameters %s; known are %s", strings.Join(unknown, ", "), strings.Join(known, ", "))
}

// withoutDescriptions returns the parameters that make a difference.
func withoutDescriptions(parameters map[string]string) map[string]string {
	out := make(map[string]string, len(parameters))
	for key, value := range parameters {
		if !slices.Contains(volumeDescriptions, key) {
			out[key] = value
		}
	}
	return out
}

func parseMoment(text string) (Moment, error) {
	if n, err := strconv.ParseUint(text, 10, 64); err == nil && n > 0 {
		return Moment{Checkpoint: journal.CheckpointNumber(n)}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil && !t.IsZero() {
		return Moment{Time: t}, nil
	}
	return Moment{}, fmt.Errorf("want an RFC 3339 time or a checkpoint number")
}

// parseDuration reads Go's durations and whole days ("7d").
func parseDuration(text string, minimum, maximum time.Duration) (*time.Duration, error) {
	d, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * day
	}
	if err != nil {
		return nil, fmt.Errorf("want a duration such as 500ms, 24h or 7d")
	}
	if d < minimum || d > maximum {
		return nil, fmt.Errorf("want %s to %s", minimum, maximum)
	}
	return &d, nil
}

// parseHistory checks a history and returns it in the form in which it is kept.
func parseHistory(text string) (*string, error) {
	h, err := journal.ParseHistory(text)
	switch {
	case err != nil:
		return nil, err
	case len(h) == 0:
		return nil, fmt.Errorf("want INTERVAL:AGE for each tier, such as 1s:1h,1m:24h,1h:7d")
	case h.Window() < minWindow || h.Window() > maxWindow:
		return nil, fmt.Errorf("want a last age of %s to %s", minWindow, maxWindow)
	}
	text = h.String()
	return &text, nil
}

func parseJournalSize(text string) (*int64, error) {
	n, err := bytesize.Parse(text)
	if err != nil {
		return nil, err
	}
	if n != 0 && (n < minJournalBytes || n > maxJournalBytes) {
		return nil, fmt.Errorf("want 0, or 64Mi to 1Pi")
	}
	return &n, nil
}
