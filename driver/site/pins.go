package site

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// PointSizes returns the sizes in bytes that the members had at a recovery
// point that can be opened.
func (s *Site) PointSizes(point group.Point) (map[journal.VolumeID]int64, error) {
	sizes := make(map[journal.VolumeID]int64, len(point.Members))
	for id, at := range point.Members {
		eng, err := s.engineOf(id)
		if err != nil {
			return nil, err
		}
		if sizes[id], err = eng.Store().SizeAt(at); err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

// bucketUnpins holds the pins that were dropped while a store that may have them was not
// open, by the id of its volume and their names. It drops them when it is opened: nobody
// else knows of them any more, and they would hold its journal for ever.
const bucketUnpins = "unpins"

// UnpinPoint drops a pin from every store that has it, those of retired
// volumes included, of whatever group: its name is nobody else's. Stores that are not
// open drop it when they are. No error if none has it.
func (s *Site) UnpinPoint(ctx context.Context, pin string) error {
	return s.unpin(ctx, pin, func(record) bool { return true })
}

// DropPin is UnpinPoint of a pin whose name somebody chose: another group's of that name
// stays.
func (s *Site) DropPin(ctx context.Context, name, pin string) error {
	st, err := s.groups.State(name)
	if err != nil && !errors.Is(err, group.ErrNotFound) { // its volumes may be there, retired
		return err
	}
	return s.unpin(ctx, pin, func(r record) bool { return r.Group == name || slices.Contains(st.Members, r.ID) })
}

func (s *Site) unpin(ctx context.Context, pin string, has func(record) bool) error {
	unlock, err := s.groups.LockPin(ctx, pin)
	if err != nil {
		return err
	}
	defer unlock()
	holders, err := s.noteUnpins(pin, has)
	if err != nil {
		return err
	}
	for _, store := range holders {
		if err := store.Unpin(pin); err != nil {
			return fmt.Errorf("volume %s: %w", store.Volume(), err)
		}
	}
	return nil
}

// noteUnpins returns the open stores that have a pin, and notes durably that those which
// are not open have to drop it.
func (s *Site) noteUnpins(pin string, has func(record) bool) (holders []*journal.Store, err error) {
	s.unpinMu.Lock()
	defer s.unpinMu.Unlock()
	s.mu.Lock()
	var closed []journal.VolumeID
	for id, v := range s.volumes {
		switch {
		case !has(v.record):
		case v.eng != nil:
			if _, ok := v.store().Pins()[pin]; ok {
				holders = append(holders, v.store())
			}
		case v.record.Store != "":
			closed = append(closed, id)
		}
	}
	s.mu.Unlock()
	return holders, s.noteUnpin(closed, pin)
}

func unpinKey(id journal.VolumeID, pin string) []byte { return append(id[:], pin...) }

// noteUnpin is noteUnpins for some volumes.
func (s *Site) noteUnpin(ids []journal.VolumeID, pin string) error {
	ids = slices.DeleteFunc(ids, func(id journal.VolumeID) bool {
		noted := false
		err := s.db.View(func(tx kv.Tx) error {
			noted = tx.Get(bucketUnpins, unpinKey(id, pin)) != nil
			return nil
		})
		return noted && err == nil
	})
	if len(ids) == 0 {
		return nil
	}
	err := s.db.Update(func(tx kv.Tx) error {
		for _, id := range ids {
			if err := tx.Put(bucketUnpins, unpinKey(id, pin), []byte{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note that pin %q is dropped: %w", pin, err)
	}
	return nil
}

// rangeUnpins calls fn for each pin that a volume has to drop.
func rangeUnpins(tx kv.Tx, id journal.VolumeID, fn func(pin string)) {
	tx.Range(bucketUnpins, id[:], func(key, _ []byte) bool {
		pin, its := bytes.CutPrefix(key, id[:])
		if its {
			fn(string(pin))
		}
		return its
	})
}

// dropNoted drops the pins that were dropped while a store was not open. What cannot be
// dropped now is tried again at its next open. unpinMu must be held until the store is
// known to be open.
func (s *Site) dropNoted(store *journal.Store) {
	var pins []string
	err := s.db.View(func(tx kv.Tx) error {
		rangeUnpins(tx, store.Volume(), func(pin string) { pins = append(pins, pin) })
		return nil
	})
	if err == nil && len(pins) == 0 {
		return
	}
	held := store.Pins()
	for _, pin := range pins {
		if _, ok := held[pin]; ok && err == nil {
			err = store.Unpin(pin)
		}
	}
	if err == nil {
		err = s.db.Update(func(tx kv.Tx) error { return forgetUnpins(tx, store.Volume()) })
	}
	if err != nil {
		s.cfg.Log.Warn("pins that were dropped while the volume was not open are still there", "volume", store.Volume(), "error", err)
	}
}

// pinsOf are the pins of a store, without those that were dropped while it was not open and
// could not be when it was opened: they are gone for everybody but the store.
func (s *Site) pinsOf(store *journal.Store) map[string]journal.Position {
	pins := store.Pins()
	err := s.db.View(func(tx kv.Tx) error {
		rangeUnpins(tx, store.Volume(), func(pin string) { delete(pins, pin) })
		return nil
	})
	if err != nil { // of a database that ends the site
		s.cfg.Log.Warn("which pins were dropped is not known", "volume", store.Volume(), "error", err)
	}
	return pins
}

// keepPin has a pin stay that is about to be made in a store under a name whose pin it should
// have dropped, and could not when it was opened: that one goes before. The pin's key must be held.
func (s *Site) keepPin(store *journal.Store, pin string, at journal.Position) error {
	key := unpinKey(store.Volume(), pin)
	noted := false
	err := s.db.View(func(tx kv.Tx) error {
		noted = tx.Get(bucketUnpins, key) != nil
		return nil
	})
	if err != nil || !noted {
		return err
	}
	if old, ok := store.Pins()[pin]; ok && old != at {
		if err := store.Unpin(pin); err != nil {
			return err
		}
	}
	if err := s.db.Update(func(tx kv.Tx) error { return tx.Delete(bucketUnpins, key) }); err != nil {
		return fmt.Errorf("forget that pin %q was to be dropped: %w", pin, err)
	}
	return nil
}

// forgetUnpins forgets what a volume has to drop.
func forgetUnpins(tx kv.Tx, id journal.VolumeID) error {
	var pins []string
	rangeUnpins(tx, id, func(pin string) { pins = append(pins, pin) })
	for _, pin := range pins {
		if err := tx.Delete(bucketUnpins, unpinKey(id, pin)); err != nil {
			return err
		}
	}
	return nil
}
