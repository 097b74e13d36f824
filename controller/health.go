package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/journal"
)

// ControllerGetVolumeHealth implements csi.ControllerServer.
func (s *Server) ControllerGetVolumeHealth(ctx context.Context, req *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	return answer(s.getVolumeHealth(ctx, req.GetVolumeId()))
}

func (s *Server) getVolumeHealth(ctx context.Context, id string) (*csi.ControllerGetVolumeHealthResponse, error) {
	v, err := s.volume(id)
	if err != nil {
		return nil, err
	}
	health, err := s.health(ctx, v.ID)
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: health}, err
}

// ControllerListVolumeHealth implements csi.ControllerServer. Healthy volumes
// are left out.
func (s *Server) ControllerListVolumeHealth(ctx context.Context, req *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	return answer(s.listVolumeHealth(ctx, req))
}

func (s *Server) listVolumeHealth(ctx context.Context, req *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	p, err := newPage[*csi.VolumeHealth](req.GetMaxEntries(), req.GetStartingToken())
	if err != nil {
		return nil, err
	}
	// The backend is asked outside the transaction, because it may take time.
	var ids []journal.VolumeID
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		return tx.EachVolume(p.after, func(v catalog.Volume) bool {
			if v.State == catalog.StateReady {
				ids = append(ids, v.ID)
			}
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		health, err := s.health(ctx, id)
		if err != nil {
			return nil, err
		}
		if len(health.GetHealthStatuses()) > 0 && !p.add(id.String(), health) {
			break
		}
	}
	return &csi.ControllerListVolumeHealthResponse{Entries: p.entries, NextToken: p.next}, nil
}

func (s *Server) health(ctx context.Context, id journal.VolumeID) (*csi.VolumeHealth, error) {
	conditions, err := s.cfg.Backend.Health(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("get health of volume %s: %w", id, err)
	}
	out := &csi.VolumeHealth{VolumeId: id.String()}
	for _, c := range conditions {
		out.HealthStatuses = append(out.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: csi.VolumeHealthErrorType(c.Severity), Reason: c.Reason, Message: c.Message,
		})
	}
	return out, nil
}
