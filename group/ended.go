package group

import (
	"encoding/json"
	"fmt"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// bucketEnded holds the groups that have ended here and whose peer does not know
// yet.
const bucketEnded = "ended-groups"

// Ended is a group that has lost its last member at the site that was its
// primary, and of which its peer keeps a replica.
type Ended struct {
	Name string
	Peer string
	Term Term // that it had last
}

// endOf is what a peer is to be told of a group without members; nil: nothing.
func endOf(s State) *Ended {
	if s.Role != RolePrimary || s.Settings.ReplicateTo == "" {
		return nil
	}
	return &Ended{Name: s.Name, Peer: s.Settings.ReplicateTo, Term: s.Term}
}

// putEnd notes that a group has ended, if its peer is to be told.
func putEnd(tx kv.Tx, s State) error {
	end := endOf(s)
	if end == nil {
		return nil
	}
	value, err := json.Marshal(end)
	if err != nil {
		return fmt.Errorf("encode end of group %q: %w", s.Name, err)
	}
	return tx.Put(bucketEnded, []byte(s.Name), value)
}

// Ended returns the groups whose peers do not know yet that they have ended, by
// name.
func (r *Registry) Ended() ([]Ended, error) {
	var all []Ended
	err := r.db.View(func(tx kv.Tx) error {
		var failed error
		tx.Range(bucketEnded, nil, func(key, value []byte) bool {
			var e Ended
			if err := json.Unmarshal(value, &e); err != nil {
				failed = fmt.Errorf("read end of group %q: %w", key, err)
				return false
			}
			all = append(all, e)
			return true
		})
		return failed
	})
	return all, err
}

// ForgetEnd says that a group's peer knows of its end. Durable on return.
func (r *Registry) ForgetEnd(name string) error {
	if err := r.db.Update(func(tx kv.Tx) error { return tx.Delete(bucketEnded, []byte(name)) }); err != nil {
		return fmt.Errorf("forget the end of group %q: %w", name, err)
	}
	return nil
}
