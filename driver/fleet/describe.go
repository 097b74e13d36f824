package fleet

import (
	"maps"
	"slices"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/journal"
)

// Volume describes a volume of the site at one moment.
type Volume struct {
	ID         journal.VolumeID
	Name       string
	Group      string
	SizeBytes  int64
	Claim      string
	Retired    bool
	Placement  *Placement // nil until the backing volume exists
	Attach     *Attachment
	Attributes map[string]string
	Node       string // that the engine runs on; empty: it does not run, or is not known to
	Connected  bool   // State is what the engine says now; else what it said last
	State      control.State
	Err        error // why the engine does not answer; nil if it is not wanted
	Trouble    error // why a backing volume is smaller than it should be
	// Absent: nothing of it had arrived when this site became primary for its group.
	// Of a replica it says nothing.
	Absent bool
}

// Volumes describes all volumes, by id.
func (f *Fleet) Volumes() []Volume {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []Volume
	for _, id := range slices.SortedFunc(maps.Keys(f.volumes), compareIDs) {
		all = append(all, describe(f.volumes[id]))
	}
	return all
}

// Volume describes one volume; ErrNotFound.
func (f *Fleet) Volume(id journal.VolumeID) (Volume, error) {
	v, err := f.volumeOf(id)
	if err != nil {
		return Volume{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return describe(v), nil
}

// describe is called with Fleet.mu held.
func describe(v *volume) Volume {
	r := v.record
	out := Volume{ID: r.ID, Name: r.Name, Group: r.Group, SizeBytes: r.SizeBytes, Claim: r.Backing.Claim, Retired: r.Retired,
		Placement: r.Placement, Attach: r.Attach, Attributes: r.Attributes, Connected: v.client != nil, State: v.state, Trouble: v.trouble, Absent: v.isAbsentLocked()}
	if v.running {
		out.Node, out.Err = v.node, v.failure
	}
	return out
}
