package catalog

import (
	"github.com/lockstep-csi/lockstep/journal"
)

// State is how far a record's creation or deletion has come.
type State string

// States of volumes and pins. Only ready ones are shown to callers.
const (
	// StateCreating: intended; the store or pin may or may not exist. Left by
	// a crash, it is rolled back.
	StateCreating State = "creating"
	// StateReady: it exists.
	StateReady State = "ready"
	// StateDeleting: to be deleted; it may or may not be gone already. Left by
	// a crash, the deletion is finished.
	StateDeleting State = "deleting"
	// StateRetiring: a volume that is deleted, or whose creation is undone; its
	// store may or may not have left its group already. It becomes retired or
	// deleting, depending on whether a pin needs it. Left by a crash, that is
	// finished.
	StateRetiring State = "retiring"
	// StateRetired: a volume that was deleted but whose store is kept until
	// the last pin that lists it as a member is released. Its name is free.
	StateRetired State = "retired"
)

// Volume is one journaled volume.
type Volume struct {
	ID    journal.VolumeID `json:"id"`
	Name  string           `json:"name"` // of the CreateVolume request
	State State            `json:"state"`
	// SizeBytes is what the volume has; ExpandTo, when not zero, is what an
	// expansion in progress will make it.
	SizeBytes  int64  `json:"sizeBytes"`
	ExpandTo   int64  `json:"expandTo,omitempty"`
	Group      string `json:"group"`
	BlockBytes int    `json:"blockBytes"`       // logical block size of the device
	FSType     string `json:"fsType,omitempty"` // from the parameters, for callers that name none later
	// Parameters and Mutable are those of the CreateVolume request without the
	// ones that only describe it, to recognise the same request again.
	Parameters map[string]string `json:"parameters,omitempty"`
	Mutable    map[string]string `json:"mutable,omitempty"`
	Source     *Source           `json:"source,omitempty"`
	Publish    *Publish          `json:"publish,omitempty"`
	// Topology is where the volume can be used; see controller.Backend.
	Topology []map[string]string `json:"topology,omitempty"`
	// Claim is NAMESPACE/NAME of the claim that it was made for, if known.
	Claim string `json:"claim,omitempty"`
	// Unused: it has never been published, so nothing but its source has
	// written to it. Records of before this was noted do not have it.
	Unused bool `json:"unused,omitempty"`
	// Moved: it was a member of another group before, or is about to leave one, so that a
	// pin of any group may have it. Records of before this was noted do not have it.
	Moved bool `json:"moved,omitempty"`
}

// Source is where a volume's first content came from. Snapshot or Volume is
// what the request named; Pin and Member say which image that is.
type Source struct {
	Snapshot string           `json:"snapshot,omitempty"`
	Volume   string           `json:"volume,omitempty"`
	Pin      string           `json:"pin"`
	Member   journal.VolumeID `json:"member"`
}

// PublishState is how far an attachment has come.
type PublishState string

// States of an attachment.
const (
	PublishStarting PublishState = "starting" // intended; rolled back after a crash
	PublishActive   PublishState = "active"   // attached; attached again after a crash
	PublishStopping PublishState = "stopping" // being detached; finished after a crash
)

// Publish is where and how a volume is attached.
type Publish struct {
	State    PublishState `json:"state"`
	Node     string       `json:"node"`
	ReadOnly bool         `json:"readOnly"`
	Block    bool         `json:"block"` // raw block, else a file system
	Mode     string       `json:"mode"`  // CSI's name of the access mode
}

// Volume returns the record of a volume in any state, or ErrNotFound.
func (t *Tx) Volume(id journal.VolumeID) (Volume, error) {
	return get[Volume](t, bucketVolumes, id.String())
}

// VolumeNamed returns the volume that was created under a name and is not
// retired, or ErrNotFound.
func (t *Tx) VolumeNamed(name string) (Volume, error) {
	id, err := get[journal.VolumeID](t, bucketVolumeNames, name)
	if err != nil {
		return Volume{}, err
	}
	return t.Volume(id)
}

// PutVolume stores a volume. Its name leads to it unless it is retired.
func (t *Tx) PutVolume(v Volume) error {
	if err := put(t, bucketVolumes, v.ID.String(), v); err != nil {
		return err
	}
	if v.State == StateRetired {
		if err := put(t, bucketRetired, v.ID.String(), v.ID); err != nil {
			return err
		}
		return t.freeName(v)
	}
	if err := t.tx.Delete(bucketRetired, []byte(v.ID.String())); err != nil {
		return err
	}
	return put(t, bucketVolumeNames, v.Name, v.ID)
}

// DeleteVolume removes a volume and frees its name. No error if it is absent.
func (t *Tx) DeleteVolume(v Volume) error {
	if err := t.freeName(v); err != nil {
		return err
	}
	if err := t.tx.Delete(bucketRetired, []byte(v.ID.String())); err != nil {
		return err
	}
	return t.tx.Delete(bucketVolumes, []byte(v.ID.String()))
}

// RetiredVolumes returns the retired volumes in ascending order. Unlike
// Volumes it does not look at the others.
func (t *Tx) RetiredVolumes() ([]Volume, error) {
	var ids []journal.VolumeID
	err := each(t, bucketRetired, "", func(id journal.VolumeID) bool {
		ids = append(ids, id)
		return true
	})
	var out []Volume
	for _, id := range ids {
		v, missing := t.Volume(id)
		if missing != nil {
			return nil, missing
		}
		out = append(out, v)
	}
	return out, err
}

// freeName drops a name that leads to v, and leaves alone one that has passed
// to another volume since v was retired.
func (t *Tx) freeName(v Volume) error {
	owner, err := t.VolumeNamed(v.Name)
	if err != nil || owner.ID != v.ID {
		return nil
	}
	return t.tx.Delete(bucketVolumeNames, []byte(v.Name))
}

// EachVolume calls fn for the volumes with an id greater than after, in
// ascending order of id, until fn returns false.
func (t *Tx) EachVolume(after string, fn func(Volume) bool) error {
	return each(t, bucketVolumes, after, fn)
}

// Volumes returns the volumes for which keep is true, in ascending order.
func (t *Tx) Volumes(keep func(*Volume) bool) ([]Volume, error) {
	var all []Volume
	err := t.EachVolume("", func(v Volume) bool {
		if keep(&v) {
			all = append(all, v)
		}
		return true
	})
	return all, err
}
