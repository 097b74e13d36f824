package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/journal"
)

// DeleteVolume implements csi.ControllerServer. A volume of which snapshots
// exist disappears for callers, and its store is kept until the last of them
// is deleted. FailedPrecondition while the volume is published.
func (s *Server) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return answer(s.deleteVolume(ctx, req.GetVolumeId()))
}

func (s *Server) deleteVolume(ctx context.Context, id string) (*csi.DeleteVolumeResponse, error) {
	if id == "" {
		return nil, invalid("volume id is missing")
	}
	v, found, err := s.findVolume(id)
	if err != nil {
		return nil, err
	}
	if !found || v.State == catalog.StateRetired {
		return &csi.DeleteVolumeResponse{}, nil
	}
	return run(ctx, s, []string{volumeKey(v.Name)}, func(ctx context.Context) (*csi.DeleteVolumeResponse, error) {
		if err := s.delete(ctx, id); err != nil {
			return nil, fmt.Errorf("delete volume %s: %w", id, err)
		}
		return &csi.DeleteVolumeResponse{}, nil
	})
}

// delete runs with the volume's lock held.
func (s *Server) delete(ctx context.Context, id string) error {
	v, found, err := s.findVolume(id)
	switch {
	case err != nil:
		return err
	case !found || v.State == catalog.StateRetired:
		return nil
	case v.Publish != nil:
		return fmt.Errorf("volume is published on node %s: %w", v.Publish.Node, ErrInUse)
	}
	return s.removeVolume(ctx, v)
}

// findVolume returns a volume in any state.
func (s *Server) findVolume(id string) (v catalog.Volume, found bool, err error) {
	parsed, err := journal.ParseVolumeID(id)
	if err != nil {
		return v, false, nil
	}
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		v, err = tx.Volume(parsed)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return v, false, nil
	}
	return v, err == nil, err
}
