package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/group"
)

// ControllerModifyVolume implements csi.ControllerServer. The settings that
// it changes are those of the volume's group, hence of all its members.
func (s *Server) ControllerModifyVolume(ctx context.Context, req *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	return answer(s.modifyVolume(ctx, req))
}

func (s *Server) modifyVolume(ctx context.Context, req *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	patch, err := parseMutableParameters(req.GetMutableParameters())
	if err != nil {
		return nil, err
	}
	v, err := s.volume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	keys := []string{volumeKey(v.Name), groupKey(v.Group)}
	return run(ctx, s, keys, func(ctx context.Context) (*csi.ControllerModifyVolumeResponse, error) {
		now, err := s.volume(req.GetVolumeId())
		if err != nil {
			return nil, err
		}
		if now.Group != v.Group { // whose lock this call does not have
			return nil, fmt.Errorf("modify volume %s: it has just moved to group %s: %w", req.GetVolumeId(), now.Group, ErrBusy)
		}
		if err := s.modifyGroup(ctx, v.Group, patch); err != nil {
			return nil, fmt.Errorf("modify volume %s: %w", req.GetVolumeId(), err)
		}
		return &csi.ControllerModifyVolumeResponse{}, nil
	})
}

// modifyGroup changes the settings that patch names. It runs with the group's
// lock held, unless patch names none.
func (s *Server) modifyGroup(ctx context.Context, name string, patch settingsPatch) error {
	if patch == (settingsPatch{}) {
		return nil
	}
	present, err := s.present(ctx, name)
	if err != nil {
		return err
	}
	var before, g catalog.Group
	err = s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		recorded, err := tx.Group(name)
		if err != nil {
			return err
		}
		before = asItRuns(recorded, present)
		g = before
		base := patch.apply(baseOf(g))
		wanted := overlay(base, g.Chosen)
		if patch.apply(wanted) != wanted {
			return invalid("group %s was given other settings itself: change its ConsistencyGroup", name)
		}
		g.Base = &base
		if g.Pending == nil && wanted == g.Settings {
			return tx.PutGroup(g) // what the parameters say counts when Chosen says it no more
		}
		if err := checkSettings(wanted); err != nil {
			return err
		}
		g.Pending = &wanted
		return tx.PutGroup(g)
	})
	if err != nil || g.Pending == nil {
		return err
	}
	return s.tryModify(ctx, g, before)
}

// tryModify carries out a recorded change, and takes it back if it is refused:
// nothing was changed then, and trying again cannot help.
func (s *Server) tryModify(ctx context.Context, g, before catalog.Group) error {
	err := s.finishModify(ctx, g)
	if isRefused(err) {
		return errors.Join(err, s.settle(before, before.Settings))
	}
	return err
}

// isRefused reports whether a change of settings was refused for good: by what it says, or
// because the settings are another site's to say.
func isRefused(err error) bool { return errors.Is(err, ErrInvalid) || errors.Is(err, ErrNotPrimary) }

// finishModify carries out a recorded change of settings.
func (s *Server) finishModify(ctx context.Context, g catalog.Group) error {
	if err := s.cfg.Backend.ModifyGroup(ctx, g.Name, *g.Pending); err != nil {
		return fmt.Errorf("modify group %s: %w", g.Name, err)
	}
	return s.settle(g, *g.Pending)
}

// settle records the settings that a group has after a change.
func (s *Server) settle(g catalog.Group, settings group.Settings) error {
	g.Settings, g.Pending = settings, nil
	return s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		if _, err := tx.Group(g.Name); errors.Is(err, catalog.ErrNotFound) {
			return nil // its last volume has gone meanwhile, and it has ended
		} else if err != nil {
			return err
		}
		return tx.PutGroup(g)
	})
}
