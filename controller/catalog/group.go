package catalog

import "github.com/lockstep-csi/lockstep/group"

// Group is what volumes of one consistency group have in common.
type Group struct {
	Name     string         `json:"name"`
	Settings group.Settings `json:"settings"`
	// Base is what the parameters of volumes say, and Chosen what was chosen for
	// the group itself, zero where nothing was: Settings are Base with Chosen
	// over it. Without Base, Settings are all of it.
	Base   *group.Settings `json:"base,omitempty"`
	Chosen group.Settings  `json:"chosen,omitzero"`
	// Pending, when set, is a change of Settings that was begun: the backend
	// may have either. Left by a crash, the change is finished.
	Pending *group.Settings `json:"pending,omitempty"`
}

// Group returns a group, or ErrNotFound.
func (t *Tx) Group(name string) (Group, error) { return get[Group](t, bucketGroups, name) }

// PutGroup stores a group.
func (t *Tx) PutGroup(g Group) error { return put(t, bucketGroups, g.Name, g) }

// DeleteGroup removes a group. No error if it is absent.
func (t *Tx) DeleteGroup(name string) error {
	return t.tx.Delete(bucketGroups, []byte(name))
}

// Groups returns all groups in ascending order of name.
func (t *Tx) Groups() ([]Group, error) {
	var all []Group
	err := each(t, bucketGroups, "", func(g Group) bool {
		all = append(all, g)
		return true
	})
	return all, err
}
