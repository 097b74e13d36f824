package group

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

const bucketGroups = "groups"

// Registry is the durable table of a site's groups. Its methods may be called
// concurrently.
type Registry struct {
	// Filler fills members from writable forks; nil where there are none. Set it
	// before the first operation.
	Filler Filler

	db     kv.DB
	mu     sync.Mutex
	states map[string]State
}

// OpenRegistry reads the table from a database, which stays the caller's.
func OpenRegistry(db kv.DB) (*Registry, error) {
	r := &Registry{db: db, states: map[string]State{}}
	err := db.View(func(tx kv.Tx) error {
		var failed error
		tx.Range(bucketGroups, nil, func(key, value []byte) bool {
			var s State
			if err := json.Unmarshal(value, &s); err != nil {
				failed = fmt.Errorf("read group %q: %w", key, err)
				return false
			}
			r.states[string(key)] = s
			return true
		})
		return failed
	})
	if err != nil {
		return nil, fmt.Errorf("open group registry: %w", err)
	}
	return r, nil
}

// Get returns a group's state; ErrNotFound.
func (r *Registry) Get(name string) (State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.states[name]
	if !ok {
		return State{}, fmt.Errorf("group %q: %w", name, ErrNotFound)
	}
	return s.clone(), nil
}

// List returns all groups by name.
func (r *Registry) List() []State {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []State
	for _, name := range slices.Sorted(maps.Keys(r.states)) {
		all = append(all, r.states[name].clone())
	}
	return all
}

// Update changes one group, which is made if it does not exist: change then
// gets a State with only the name. Durable on return; an error of change is
// returned as it is and nothing is changed.
func (r *Registry) Update(name string, change func(*State) error) (State, error) {
	return r.updateWith(name, change, Saving{})
}

// updateWith is Update that saves something else in the same transaction.
func (r *Registry) updateWith(name string, change func(*State) error, also Saving) (State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.states[name].clone()
	next.Name = name
	if err := change(&next); err != nil {
		return State{}, err
	}
	value, err := json.Marshal(next)
	if err != nil {
		return State{}, fmt.Errorf("encode group %q: %w", name, err)
	}
	err = r.db.Update(func(tx kv.Tx) error {
		if err := leavePeer(tx, r.states[name], next); err != nil {
			return err
		}
		if also.Save != nil {
			if err := also.Save(tx); err != nil {
				return err
			}
		}
		return tx.Put(bucketGroups, []byte(name), value)
	})
	if err != nil {
		return State{}, fmt.Errorf("save group %q: %w", name, err)
	}
	r.states[name] = next
	if also.Saved != nil {
		also.Saved()
	}
	return next.clone(), nil
}

// Move changes two groups in one transaction, together with what save puts into
// the database: all of it is durable on return, or nothing changed. A group
// that is left without members is forgotten as by Delete, and one that does not exist is
// made. An error of change is returned as it is.
func (r *Registry) Move(from, to string, change func(from, to *State) error, save func(kv.Tx) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	left, joined := r.states[from].clone(), r.states[to].clone()
	left.Name, joined.Name = from, to
	if err := change(&left, &joined); err != nil {
		return err
	}
	states := []State{left, joined}
	err := r.db.Update(func(tx kv.Tx) error {
		for _, s := range states {
			if err := putState(tx, s); err != nil {
				return err
			}
		}
		return save(tx)
	})
	if err != nil {
		return fmt.Errorf("save groups %q and %q: %w", from, to, err)
	}
	for _, s := range states {
		if r.states[s.Name] = s; len(s.Members) == 0 {
			delete(r.states, s.Name)
		}
	}
	return nil
}

// putState saves a group, or removes one that has no members.
func putState(tx kv.Tx, s State) error {
	if len(s.Members) == 0 {
		return errors.Join(putEnd(tx, s), tx.Delete(bucketGroups, []byte(s.Name)))
	}
	value, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode group %q: %w", s.Name, err)
	}
	return tx.Put(bucketGroups, []byte(s.Name), value)
}

// Delete forgets a group; no error if there is none. Ended names it until its
// peer, if it had one, knows. Durable on return.
func (r *Registry) Delete(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.states[name]
	err := r.db.Update(func(tx kv.Tx) error {
		if known {
			if err := putEnd(tx, s); err != nil {
				return err
			}
		}
		return tx.Delete(bucketGroups, []byte(name))
	})
	if err != nil {
		return fmt.Errorf("delete group %q: %w", name, err)
	}
	delete(r.states, name)
	return nil
}

// clone copies what a caller might change in place.
func (s State) clone() State {
	s.Members, s.Deleted, s.Removed = slices.Clone(s.Members), slices.Clone(s.Deleted), maps.Clone(s.Removed)
	return s
}
