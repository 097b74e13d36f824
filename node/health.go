package node

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// NodeGetVolumeHealth implements csi.NodeServer: whether the device answers,
// and whether the kernel made its file system read-only after an error.
func (s *Server) NodeGetVolumeHealth(ctx context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	return answer(s.getVolumeHealth(ctx, req.GetVolumeId()))
}

func (s *Server) getVolumeHealth(ctx context.Context, volume string) (*csi.NodeGetVolumeHealthResponse, error) {
	if volume == "" {
		return nil, invalid("volume id is missing")
	}
	health := &csi.VolumeHealth{VolumeId: volume}
	device, err := s.device(ctx, volume)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, err
	case err != nil:
		health.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{{
			Status: csi.VolumeHealthErrorType_INACCESSIBLE, Reason: "DeviceUnavailable", Message: err.Error(),
		}}
		return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
	}
	// Mounted writable but read-only beneath: the kernel's answer to an error.
	failed, err := s.mounts(func(m *Mount) bool {
		return m.Device == device.Number && m.SuperReadOnly && !m.ReadOnly
	})
	if err != nil {
		return nil, err
	}
	if len(failed) > 0 {
		health.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{{
			Status: csi.VolumeHealthErrorType_DEGRADED, Reason: "FileSystemReadOnly",
			Message: "the kernel made the file system at " + failed[0].Point + " read-only after an error; unstage and stage the volume to check it",
		}}
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
}

// NodeGetStorageHealth implements csi.NodeServer.
func (s *Server) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	out := &csi.NodeGetStorageHealthResponse{}
	if err := s.cfg.Devices.Ready(ctx); err != nil {
		out.BackendHealth = []*csi.NodeGetStorageHealthResponse_StorageBackendHealth{{
			Status: csi.StorageHealthErrorType_STORAGE_UNREACHABLE, Reason: "EnginesNotReady", Message: err.Error(),
		}}
	}
	return out, nil
}
