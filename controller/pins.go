package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller/catalog"
)

// takePin has the backend pin the point that a recorded pin in state creating
// asks for, and returns the pin as it will be once settled. The record is the
// caller's to store, because what it means differs between owners.
func (s *Server) takePin(ctx context.Context, pin catalog.Pin) (catalog.Pin, error) {
	at, err := momentOf(pin)
	if err != nil {
		return pin, err
	}
	point, err := s.cfg.Backend.TakePin(ctx, pin.Group, pin.Name, at)
	if err != nil {
		return pin, fmt.Errorf("pin group %s at %s: %w", pin.Group, at, err)
	}
	pin.State = catalog.StateReady
	pin.Checkpoint = point.Checkpoint
	pin.Time = point.Time.UTC()
	pin.Members = point.Members
	return pin, nil
}

func momentOf(pin catalog.Pin) (Moment, error) {
	if pin.AsOf == "" {
		return Moment{}, nil
	}
	return parseMoment(pin.AsOf)
}

func asOfText(at Moment) string {
	if at.IsPresent() {
		return ""
	}
	return at.String()
}

// beginDropPin marks a pin as going; ErrInUse while a volume is being made
// from it. What the pin belongs to is invisible from then on.
func beginDropPin(tx *catalog.Tx, pin catalog.Pin) (catalog.Pin, error) {
	if pin.OwnerKind != catalog.OwnerClone {
		users, err := tx.Volumes(func(v *catalog.Volume) bool {
			return v.State == catalog.StateCreating && v.Source != nil && v.Source.Pin == pin.Name
		})
		if err != nil {
			return pin, err
		}
		if len(users) > 0 {
			return pin, fmt.Errorf("volume %s is being made from it: %w", users[0].Name, ErrInUse)
		}
	}
	pin.State = catalog.StateDeleting
	return pin, tx.PutPin(pin)
}

// releasePin releases a pin and removes it with its owner. One that was not made whole is
// going from here on: it may take as long as an engine is away, and keeps no volume of its
// group from moving.
func (s *Server) releasePin(ctx context.Context, pin catalog.Pin) error {
	if pin.State == catalog.StateCreating {
		pin.State = catalog.StateDeleting
		if err := s.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.PutPin(pin) }); err != nil {
			return err
		}
	}
	if err := s.cfg.Backend.ReleasePin(ctx, pin.Group, pin.Name); err != nil {
		return fmt.Errorf("release pin %s of group %s: %w", pin.Name, pin.Group, err)
	}
	return s.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.RemovePin(pin) })
}

// settlePin records a pin that was taken.
func (s *Server) settlePin(ctx context.Context, pin catalog.Pin) error {
	if err := s.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.PutPin(pin) }); err != nil {
		return err
	}
	// A volume that left the group meanwhile was kept in case the pin has it.
	s.tryCollectRetired(ctx, anyPin)
	return nil
}

// finishDropPin is releasePin, and then deletes the retired volumes that
// nothing needs any more. Where the pin could not be released, one of these may be why: a
// store that is lost for good drops nothing. What only going pins have is deleted then,
// so that the next attempt does not wait for it.
func (s *Server) finishDropPin(ctx context.Context, pin catalog.Pin) error {
	if err := s.releasePin(ctx, pin); err != nil {
		s.tryCollectRetired(ctx, isWanted)
		return err
	}
	s.tryCollectRetired(ctx, anyPin)
	return nil
}

// forgetPin removes a pin that no store has, with its owner.
func (s *Server) forgetPin(ctx context.Context, pin catalog.Pin) error {
	if err := s.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.RemovePin(pin) }); err != nil {
		return err
	}
	s.tryCollectRetired(ctx, anyPin)
	return nil
}

// undoPin drops a pin whose making failed with cause, which it returns; with errLeft
// if that failed, too.
func (s *Server) undoPin(ctx context.Context, pin catalog.Pin, cause error) error {
	drop := s.finishDropPin
	if errors.Is(cause, ErrUntouched) { // the engine that did not come would be waited for again
		drop = s.forgetPin
	}
	if err := drop(ctx, pin); err != nil {
		// The record stays; a repeated call or the next start drops it.
		s.log.Warn("undo pin", "pin", pin.Name, "group", pin.Group, "error", err)
		return fmt.Errorf("%w: %w: %w", cause, errLeft, err)
	}
	return cause
}

// releaseClonePin releases the pin that a volume is cloned from, if it has one.
func (s *Server) releaseClonePin(ctx context.Context, v catalog.Volume) error {
	if v.Source == nil || v.Source.Volume == "" {
		return nil
	}
	pin, found, err := s.findPin(v.Source.Pin)
	if err != nil || !found {
		return err
	}
	return s.releasePin(ctx, pin)
}

func (s *Server) findPin(name string) (pin catalog.Pin, found bool, err error) {
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		pin, err = tx.Pin(name)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return pin, false, nil
	}
	return pin, err == nil, err
}
