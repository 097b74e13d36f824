package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

const bucketVolumes = "volumes"

// record is what the site durably knows of a volume.
type record struct {
	ID    journal.VolumeID
	Name  string
	Group string
	// Former are groups that the volume has left for another one: its store
	// still holds its part of their points.
	Former    []string `json:",omitempty"`
	SizeBytes int64
	// Retired volumes are in no group; their pinned images are still read.
	Retired bool `json:",omitempty"`
	Backing BackingSpec
	// Placement is set once the backing volume exists.
	Placement *Placement `json:",omitempty"`
	// Orders are the newest; they may not have reached the engine yet. Zero
	// before the first.
	Orders control.Orders
	Attach *Attachment `json:",omitempty"`
	// Arrived is set once there is known to be a store here. Engines tell of it, and none
	// does before the next controller has found it.
	Arrived bool `json:",omitempty"`
	// Fill is the first content of a store that does not exist yet.
	Fill *Source `json:",omitempty"`
	// Attributes describe the volume to a peer; see docs/replication.md.
	Attributes map[string]string `json:",omitempty"`
}

// enter makes a group the volume's present one.
func (r *record) enter(group string) {
	former := slices.DeleteFunc(slices.Clone(r.Former), func(name string) bool { return name == group })
	if r.Group != group {
		former = append(former, r.Group)
	}
	r.Group, r.Former, r.Backing.Group = group, former, group
}

// Attachment is where and how a volume's device is wanted.
type Attachment struct {
	Node string
	control.Attach
	// Leaving is set while the device is being taken away: the engine stays
	// until it has been.
	Leaving bool `json:",omitempty"`
}

// Source is a pinned image of another volume.
type Source struct {
	Member journal.VolumeID
	Pin    string
}

func (f *Fleet) saveRecord(r record) error {
	value, err := json.Marshal(r)
	if err == nil {
		err = f.cfg.DB.Update(func(tx kv.Tx) error { return tx.Put(bucketVolumes, r.ID[:], value) })
	}
	if err != nil {
		return fmt.Errorf("save record of volume %s: %w", r.ID, err)
	}
	return nil
}

func (f *Fleet) deleteRecord(id journal.VolumeID) error {
	if err := f.cfg.DB.Update(func(tx kv.Tx) error { return tx.Delete(bucketVolumes, id[:]) }); err != nil {
		return fmt.Errorf("delete record of volume %s: %w", id, err)
	}
	return nil
}

func loadRecords(db kv.DB) ([]record, error) {
	var records []record
	err := db.View(func(tx kv.Tx) error {
		var failed error
		tx.Range(bucketVolumes, nil, func(key, value []byte) bool {
			var r record
			if err := json.Unmarshal(value, &r); err != nil {
				failed = fmt.Errorf("read record of volume %x: %w", key, err)
				return false
			}
			records = append(records, r)
			return true
		})
		return failed
	})
	return records, err
}

// setRecord saves a volume's record and makes it the present one. The volume's
// turn (turnKey) must be held.
func (f *Fleet) setRecord(v *volume, r record) error {
	if err := f.saveRecord(r); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.record = r
	v.poke()
	return nil
}

// change changes a volume's record, durably.
func (f *Fleet) change(ctx context.Context, v *volume, edit func(*record)) error {
	next := f.recordOf(v)
	unlock, err := f.locks.Lock(ctx, turnKey(next.ID))
	if err != nil {
		return err
	}
	defer unlock()
	next = f.recordOf(v)
	edit(&next)
	return f.setRecord(v, next)
}
