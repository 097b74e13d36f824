package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller/catalog"
)

// Reconcile finishes or rolls back what an earlier process left unfinished,
// and attaches the volumes that are published. Call it before serving.
//
// What nobody was told of is rolled back (volumes, pins and attachments in
// the making); what was asked for and may be half done is finished (deletions,
// expansions, changed settings, detachments). One object's failure does not
// keep it from the others; the error joins all of them, and the calls for
// those objects, or the next Reconcile, try again.
func (s *Server) Reconcile(ctx context.Context) error {
	var volumes []catalog.Volume
	var pins []catalog.Pin
	var groups []catalog.Group
	err := s.cfg.Catalog.View(func(tx *catalog.Tx) (err error) {
		if volumes, err = tx.Volumes(func(*catalog.Volume) bool { return true }); err != nil {
			return err
		}
		if pins, err = tx.Pins(); err != nil {
			return err
		}
		groups, err = tx.Groups()
		return err
	})
	if err != nil {
		return fmt.Errorf("reconcile: %w", err)
	}
	var failed []error
	note := func(err error, format string, args ...any) {
		if err != nil {
			failed = append(failed, fmt.Errorf("reconcile %s: %w", fmt.Sprintf(format, args...), err))
		}
	}
	// Volumes go first: rolling one back releases the pin of its clone. Those that are
	// whole go last: a node that is lost may take all the time that there is, and for
	// them there are callers, who try again.
	isWhole := func(v *catalog.Volume) bool { return v.State == catalog.StateReady }
	for i := range volumes {
		if v := &volumes[i]; !isWhole(v) {
			note(s.reconcileVolume(ctx, *v), "volume %s", v.ID)
		}
	}
	for _, pin := range pins {
		note(s.reconcilePin(ctx, pin), "pin %s", pin.Name)
	}
	for _, g := range groups {
		note(s.reconcileGroup(ctx, g.Name), "group %s", g.Name)
	}
	note(s.collectRetired(ctx, isWanted), "retired volumes")
	for i := range volumes {
		if v := &volumes[i]; isWhole(v) {
			note(s.reconcileVolume(ctx, *v), "volume %s", v.ID)
		}
	}
	return errors.Join(failed...)
}

func (s *Server) reconcileVolume(ctx context.Context, v catalog.Volume) error {
	switch v.State {
	case catalog.StateCreating, catalog.StateDeleting, catalog.StateRetiring:
		return s.removeVolume(ctx, v)
	case catalog.StateRetired:
		return nil
	}
	if v.ExpandTo > 0 {
		grown, err := s.finishExpand(ctx, v)
		if err != nil {
			// A volume that could not grow is still served.
			return errors.Join(err, s.reconcilePublish(ctx, v))
		}
		v = grown
	}
	return s.reconcilePublish(ctx, v)
}

func (s *Server) reconcilePublish(ctx context.Context, v catalog.Volume) error {
	switch {
	case v.Publish == nil:
		return nil
	case v.Publish.State == catalog.PublishActive:
		err := s.cfg.Backend.Attach(ctx, v.ID, v.Publish.Node, attachOptions(v))
		if errors.Is(err, ErrNotPrimary) {
			// Another site has taken over since, and nothing is to be failed over because of
			// that. The device is its users' to let go of.
			s.log.Warn("volume is published here, and its group is a replica's by now: unpublish it", "volume", v.ID, "node", v.Publish.Node)
			return nil
		}
		return err
	}
	return s.unpublish(ctx, v)
}

// reconcilePin drops pins that nobody was told of, those that were being
// dropped, and those of clones that are complete or were rolled back.
func (s *Server) reconcilePin(ctx context.Context, pin catalog.Pin) error {
	if pin.State == catalog.StateReady && pin.OwnerKind != catalog.OwnerClone {
		return nil
	}
	if pin.OwnerKind == catalog.OwnerClone {
		v, found, err := s.findVolume(pin.OwnerID)
		if err != nil {
			return err
		}
		if found && v.State != catalog.StateReady {
			return nil // its removal failed above and comes again, with the pin
		}
	}
	return s.releasePin(ctx, pin)
}

// reconcileGroup finishes a change of settings.
func (s *Server) reconcileGroup(ctx context.Context, name string) error {
	var g catalog.Group
	err := s.cfg.Catalog.View(func(tx *catalog.Tx) (err error) {
		g, err = tx.Group(name)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) || (err == nil && g.Pending == nil) {
		return nil // its last member was rolled back above
	}
	if err != nil {
		return err
	}
	if err = s.finishModify(ctx, g); errors.Is(err, ErrNotPrimary) {
		return s.settle(g, g.Settings) // this site was the primary when it was asked
	}
	return err
}
