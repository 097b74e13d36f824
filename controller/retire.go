package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller/catalog"
)

// removeVolume takes a volume away, whatever state it is in: one that is
// deleted, or one whose creation failed.
//
// It leaves its group first and only then finds out whether a pin needs it:
// the other way round, a pin that is taken in between would list a volume whose
// store is just being deleted. It runs with the volume's lock held.
func (s *Server) removeVolume(ctx context.Context, v catalog.Volume) error {
	if v.State == catalog.StateDeleting {
		return s.finishDelete(ctx, v)
	}
	v.State = catalog.StateRetiring
	if err := s.putVolume(v); err != nil {
		return err
	}
	if err := s.releaseClonePin(ctx, v); err != nil {
		return err
	}
	if err := s.cfg.Backend.RetireStore(ctx, v.ID); err != nil {
		return fmt.Errorf("retire store of volume %s: %w", v.ID, err)
	}
	err := s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		pinned, err := isPinned(tx, v, anyPin)
		if err != nil {
			return err
		}
		v.State = catalog.StateDeleting
		if pinned {
			v.State = catalog.StateRetired
		}
		if err := tx.PutVolume(v); err != nil {
			return err
		}
		return dropEmptyGroup(tx, v.Group)
	})
	if err != nil || v.State == catalog.StateRetired {
		return err
	}
	return s.finishDelete(ctx, v)
}

// finishDelete removes the store and the record of a volume in state deleting
// or of a retired one that is not needed any more. One that Adopt has brought back
// since it was looked at stays; its store is one that RetireStore had left as it was.
func (s *Server) finishDelete(ctx context.Context, v catalog.Volume) error {
	if err := s.cfg.Backend.DeleteStore(ctx, v.ID); err != nil {
		return fmt.Errorf("delete store of volume %s: %w", v.ID, err)
	}
	return s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		now, err := tx.Volume(v.ID)
		if err == nil && now.State == catalog.StateReady || errors.Is(err, catalog.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return tx.DeleteVolume(v)
	})
}

// isPinned reports whether one of these pins holds an image of v, or may turn out to, or have: of one
// that was not made whole it is not known whom it has.
func isPinned(tx *catalog.Tx, v catalog.Volume, counts func(catalog.Pin) bool) (bool, error) {
	pins, err := tx.Pins()
	if err != nil {
		return false, err
	}
	for _, pin := range pins {
		if !counts(pin) {
			continue
		}
		if _, member := pin.Members[v.ID]; member {
			return true, nil
		}
		if pin.State != catalog.StateReady && len(pin.Members) == 0 && (pin.Group == v.Group || v.Moved) {
			return true, nil
		}
	}
	return false, nil
}

func anyPin(catalog.Pin) bool { return true }

// isWanted reports whether somebody may still read what a pin has.
func isWanted(pin catalog.Pin) bool { return pin.State != catalog.StateDeleting }

// collectRetired deletes the retired volumes that none of these pins needs any more. It is
// called whenever a pin is settled or released.
func (s *Server) collectRetired(ctx context.Context, counts func(catalog.Pin) bool) error {
	unlock, err := s.locks.Lock(ctx, keyRetired)
	if err != nil {
		return err
	}
	defer unlock()
	var unneeded []catalog.Volume
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		retired, err := tx.RetiredVolumes()
		if err != nil {
			return err
		}
		for _, v := range retired {
			pinned, err := isPinned(tx, v, counts)
			if err != nil {
				return err
			}
			if !pinned {
				unneeded = append(unneeded, v)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var failed []error
	for _, v := range unneeded {
		failed = append(failed, s.finishDelete(ctx, v))
	}
	return errors.Join(failed...)
}

// tryCollectRetired is collectRetired for callers whose own work is done: the
// next release or start tries again.
func (s *Server) tryCollectRetired(ctx context.Context, counts func(catalog.Pin) bool) {
	if err := s.collectRetired(ctx, counts); err != nil {
		s.log.Warn("delete retired volumes", "error", err)
	}
}

// dropEmptyGroup forgets a group that has no members left.
func dropEmptyGroup(tx *catalog.Tx, name string) error {
	members, err := tx.Volumes(func(v *catalog.Volume) bool {
		return v.Group == name && v.State != catalog.StateRetired && v.State != catalog.StateDeleting
	})
	if err != nil || len(members) > 0 {
		return err
	}
	return tx.DeleteGroup(name)
}
