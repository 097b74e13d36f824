package node

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
)

// NodeGetVolumeStats implements csi.NodeServer: bytes and inodes of a file
// system, the size of a raw block volume.
func (s *Server) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	return answer(s.getVolumeStats(ctx, req))
}

func (s *Server) getVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	device, at, err := s.locate(ctx, req.GetVolumeId(), req.GetVolumePath())
	if err != nil {
		return nil, err
	}
	if at == nil || at.Node == device.Number {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
			{Unit: csi.VolumeUsage_BYTES, Total: device.SizeBytes},
		}}, nil
	}
	usage, err := usageOf(at.Point)
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, err
}

// usageOf measures the file system that is mounted at path.
func usageOf(path string) ([]*csi.VolumeUsage, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return nil, fmt.Errorf("measure file system at %s: %w", path, err)
	}
	blockBytes := int64(stat.Bsize)
	return []*csi.VolumeUsage{
		{
			Unit:      csi.VolumeUsage_BYTES,
			Total:     int64(stat.Blocks) * blockBytes,
			Available: int64(stat.Bavail) * blockBytes,
			Used:      int64(stat.Blocks-stat.Bfree) * blockBytes,
		},
		{
			Unit:      csi.VolumeUsage_INODES,
			Total:     int64(stat.Files),
			Available: int64(stat.Ffree),
			Used:      int64(stat.Files - stat.Ffree),
		},
	}, nil
}

// locate finds a volume's device and the mount of it at a path where it is
// staged or published. The staging path of a raw block volume has no mount.
func (s *Server) locate(ctx context.Context, volume, path string) (Device, *Mount, error) {
	switch {
	case volume == "":
		return Device{}, nil, invalid("volume id is missing")
	case path == "":
		return Device{}, nil, invalid("volume path is missing")
	}
	device, err := s.device(ctx, volume)
	if err != nil {
		return device, nil, err
	}
	absent := fmt.Errorf("volume %s at %s: %w", volume, path, ErrNotFound)
	target, err := canonical(path)
	if err != nil {
		return device, nil, absent
	}
	mounts, err := s.mountsAt(target)
	if err != nil {
		return device, nil, err
	}
	if len(mounts) == 0 || !mounts[len(mounts)-1].isOf(device.Number) {
		return device, nil, absent
	}
	return device, &mounts[len(mounts)-1], nil
}
