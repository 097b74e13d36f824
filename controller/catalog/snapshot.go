package catalog

import (
	"errors"

	"github.com/lockstep-csi/lockstep/journal"
)

// Snapshot is one volume's image at the point that a pin keeps. Its state,
// time and size are those of the pin.
type Snapshot struct {
	ID     string           `json:"id"`
	Name   string           `json:"name"`
	Pin    string           `json:"pin"`
	Source journal.VolumeID `json:"source"`
	// GroupSnapshot is set for members of a group snapshot.
	GroupSnapshot string `json:"groupSnapshot,omitempty"`
}

// GroupSnapshot is the images of several volumes at the point of one pin.
type GroupSnapshot struct {
	ID        string             `json:"id"`
	Name      string             `json:"name"`
	Pin       string             `json:"pin"`
	Sources   []journal.VolumeID `json:"sources"`   // ascending
	Snapshots []string           `json:"snapshots"` // ids, in the order of Sources
}

// Snapshot returns a snapshot whose pin may be in any state, or ErrNotFound.
func (t *Tx) Snapshot(id string) (Snapshot, error) {
	return get[Snapshot](t, bucketSnapshots, id)
}

// PutSnapshot stores a snapshot.
func (t *Tx) PutSnapshot(s Snapshot) error { return put(t, bucketSnapshots, s.ID, s) }

// EachSnapshot calls fn for the snapshots with an id greater than after, in
// ascending order of id, until fn returns false.
func (t *Tx) EachSnapshot(after string, fn func(Snapshot) bool) error {
	return each(t, bucketSnapshots, after, fn)
}

// GroupSnapshot returns a group snapshot whose pin may be in any state, or
// ErrNotFound.
func (t *Tx) GroupSnapshot(id string) (GroupSnapshot, error) {
	return get[GroupSnapshot](t, bucketGroupSnapshots, id)
}

// PutGroupSnapshot stores a group snapshot and its members' snapshots.
func (t *Tx) PutGroupSnapshot(g GroupSnapshot) error {
	for i, id := range g.Snapshots {
		s := Snapshot{ID: id, Name: g.Name, Pin: g.Pin, Source: g.Sources[i], GroupSnapshot: g.ID}
		if err := t.PutSnapshot(s); err != nil {
			return err
		}
	}
	return put(t, bucketGroupSnapshots, g.ID, g)
}

func (t *Tx) removeGroupSnapshot(id string) error {
	g, err := t.GroupSnapshot(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, snapshot := range g.Snapshots {
		if err := t.tx.Delete(bucketSnapshots, []byte(snapshot)); err != nil {
			return err
		}
	}
	return t.tx.Delete(bucketGroupSnapshots, []byte(id))
}
