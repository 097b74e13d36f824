package node

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// NodeExpandVolume implements csi.NodeServer: it makes the file system as big
// as the device, which the controller has made bigger. Nothing is done, and no
// privilege needed, if that is so already.
func (s *Server) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	return answer(s.expandVolume(ctx, req))
}

func (s *Server) expandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if c := req.GetVolumeCapability(); c != nil {
		if _, err := accessOf(c, nil, nil); err != nil {
			return nil, err
		}
	}
	unlock, err := s.lock(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	device, at, err := s.locateForExpansion(ctx, req)
	if err != nil {
		return nil, err
	}
	limit := req.GetCapacityRange().GetLimitBytes()
	if device.SizeBytes < req.GetCapacityRange().GetRequiredBytes() || (limit > 0 && device.SizeBytes > limit) {
		return nil, fmt.Errorf("%w: device of volume %s has %d bytes, wanted %d to %d", ErrOutOfRange,
			req.GetVolumeId(), device.SizeBytes, req.GetCapacityRange().GetRequiredBytes(), limit)
	}
	if at != nil && at.Device == device.Number {
		if err := s.grow(whole(ctx), device, *at); err != nil {
			return nil, fmt.Errorf("expand volume %s: %w", req.GetVolumeId(), err)
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: device.SizeBytes}, nil
}

// locateForExpansion also accepts the staging path of a raw block volume,
// where nothing is mounted and nothing has to be done.
func (s *Server) locateForExpansion(ctx context.Context, req *csi.NodeExpandVolumeRequest) (Device, *Mount, error) {
	staged := req.GetVolumePath() != "" && req.GetVolumePath() == req.GetStagingTargetPath()
	if staged && req.GetVolumeCapability().GetBlock() != nil {
		device, err := s.device(ctx, req.GetVolumeId())
		return device, nil, err
	}
	return s.locate(ctx, req.GetVolumeId(), req.GetVolumePath())
}
