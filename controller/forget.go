package controller

import (
	"context"
	"fmt"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/journal"
)

// MayForget returns nil when nothing here needs a volume whose store is an
// orphaned replica: it is unknown, or known from a failover and not in use.
// ErrInUse otherwise.
func (s *Server) MayForget(id journal.VolumeID) error {
	v, found, err := s.findVolume(id.String())
	if err != nil || !found {
		return err
	}
	return s.mayForget(v)
}

func (s *Server) mayForget(v catalog.Volume) error {
	switch {
	case v.State != catalog.StateReady:
		return fmt.Errorf("volume %s is %s: %w", v.ID, v.State, ErrInUse)
	case v.Publish != nil:
		return fmt.Errorf("volume %s is published on node %s: %w", v.ID, v.Publish.Node, ErrInUse)
	}
	return s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		pinned, err := isPinned(tx, v, anyPin)
		if err == nil && pinned {
			err = fmt.Errorf("volume %s has snapshots: delete them first: %w", v.ID, ErrInUse)
		}
		return err
	})
}

// Forget removes the record of a volume that MayForget allows to be forgotten,
// and nothing else of it. No error if there is none.
func (s *Server) Forget(ctx context.Context, id journal.VolumeID) error {
	v, found, err := s.findVolume(id.String())
	if err != nil || !found {
		return err
	}
	_, err = run(ctx, s, []string{volumeKey(v.Name), groupKey(v.Group)}, func(context.Context) (struct{}, error) {
		v, found, err := s.findVolume(id.String())
		if err != nil || !found {
			return struct{}{}, err
		}
		if err := s.mayForget(v); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
			if err := tx.DeleteVolume(v); err != nil {
				return err
			}
			return dropEmptyGroup(tx, v.Group)
		})
	})
	if err != nil {
		return fmt.Errorf("forget volume %s: %w", id, err)
	}
	return nil
}
