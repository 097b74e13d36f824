package catalog

import (
	"errors"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// OwnerKind says what a pin was made for.
type OwnerKind string

// Kinds of owners.
const (
	OwnerSnapshot      OwnerKind = "snapshot"
	OwnerGroupSnapshot OwnerKind = "group-snapshot"
	OwnerClone         OwnerKind = "clone" // the volume that is being cloned into
)

// Pin keeps one recovery point of a group for one owner. Pins are never
// shared, so releasing one owner's never drops another's image.
type Pin struct {
	Name      string    `json:"name"`
	Group     string    `json:"group"`
	State     State     `json:"state"` // creating, ready or deleting
	OwnerKind OwnerKind `json:"ownerKind"`
	OwnerID   string    `json:"ownerID"`
	AsOf      string    `json:"asOf,omitempty"` // as requested; empty: the present
	// Set once ready: the point, and the size in bytes of each member's image
	// at it.
	Checkpoint journal.CheckpointNumber   `json:"checkpoint,omitempty"`
	Time       time.Time                  `json:"time"`
	Members    map[journal.VolumeID]int64 `json:"members,omitempty"`
}

// Pin returns a pin in any state, or ErrNotFound.
func (t *Tx) Pin(name string) (Pin, error) { return get[Pin](t, bucketPins, name) }

// PutPin stores a pin.
func (t *Tx) PutPin(p Pin) error { return put(t, bucketPins, p.Name, p) }

// Pins returns all pins in ascending order of name.
func (t *Tx) Pins() ([]Pin, error) {
	var all []Pin
	err := each(t, bucketPins, "", func(p Pin) bool {
		all = append(all, p)
		return true
	})
	return all, err
}

// RemovePin removes a pin together with the snapshot or group snapshot that
// owns it. No error if it is absent.
func (t *Tx) RemovePin(p Pin) error {
	switch p.OwnerKind {
	case OwnerSnapshot:
		if err := t.tx.Delete(bucketSnapshots, []byte(p.OwnerID)); err != nil {
			return err
		}
	case OwnerGroupSnapshot:
		if err := t.removeGroupSnapshot(p.OwnerID); err != nil {
			return err
		}
	case OwnerClone: // the volume has a life of its own
	}
	return t.tx.Delete(bucketPins, []byte(p.Name))
}

// HasPin reports whether something that the catalog knows owns a pin.
func (c *Catalog) HasPin(name string) (bool, error) {
	held := false
	err := c.View(func(tx *Tx) error {
		_, err := tx.Pin(name)
		held = err == nil
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	})
	return held, err
}
