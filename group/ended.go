package group

import (
	"encoding/json"
	"errors"
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

// Announces reports whether a group that was made anew under the name of one that has
// ended is announced to the peer of that: by then the peer knows, and it is not told of the end, which
// it would take for that of the new one.
func (s *State) Announces(e Ended) bool {
	return s.Name == e.Name && s.Claimed() == RolePrimary && s.Settings.ReplicateTo == e.Peer
}

// putEnd notes that a group has ended, if its peer is to be told. Where it does not know
// of the end of an earlier group of the name either, which may have had a higher term, that one's
// counts: the end of a lower term than a peer's replica has is none.
func putEnd(tx kv.Tx, s State) error {
	end := endOf(s)
	if end == nil {
		return nil
	}
	earlier, err := endsOf(tx, s.Name)
	if err != nil {
		return err
	}
	for _, e := range earlier {
		if e.Peer != end.Peer {
			continue
		}
		end.Term = max(end.Term, e.Term)
		if err := dropEnd(tx, e); err != nil {
			return err
		}
	}
	value, err := json.Marshal(end)
	if err != nil {
		return fmt.Errorf("encode end of group %q: %w", s.Name, err)
	}
	return tx.Put(bucketEnded, endKey(*end), value)
}

// endKey is of one end: a group that was made anew may have another peer. Before that was
// so it was the name alone.
func endKey(e Ended) []byte { return []byte(e.Name + "\x00" + e.Peer) }

func dropEnd(tx kv.Tx, e Ended) error {
	return errors.Join(tx.Delete(bucketEnded, endKey(e)), tx.Delete(bucketEnded, []byte(e.Name)))
}

// leavePeer forgets the end of an earlier group whose peer a group of the name has left: it
// was announced there in its place.
func leavePeer(tx kv.Tx, before, after State) error {
	if before.Settings.ReplicateTo == "" || before.Settings.ReplicateTo == after.Settings.ReplicateTo {
		return nil
	}
	earlier, err := endsOf(tx, after.Name)
	if err != nil {
		return err
	}
	for _, e := range earlier {
		if before.Announces(e) {
			err = errors.Join(err, dropEnd(tx, e))
		}
	}
	return err
}

// endsOf returns the ends of groups of a name, or of all for "", by name and peer.
func endsOf(tx kv.Tx, name string) ([]Ended, error) {
	var all []Ended
	var failed error
	tx.Range(bucketEnded, nil, func(key, value []byte) bool {
		var e Ended
		if err := json.Unmarshal(value, &e); err != nil {
			failed = fmt.Errorf("read end of group %q: %w", key, err)
			return false
		}
		if name == "" || e.Name == name {
			all = append(all, e)
		}
		return true
	})
	return all, failed
}

// Ended returns the groups whose peers do not know yet that they have ended, by
// name.
func (r *Registry) Ended() (all []Ended, err error) {
	err = r.db.View(func(tx kv.Tx) (err error) {
		all, err = endsOf(tx, "")
		return err
	})
	return all, err
}

// ForgetEnd says that a group's peer knows of its end. Durable on return.
func (r *Registry) ForgetEnd(e Ended) error {
	if err := r.db.Update(func(tx kv.Tx) error { return dropEnd(tx, e) }); err != nil {
		return fmt.Errorf("forget the end of group %q: %w", e.Name, err)
	}
	return nil
}
