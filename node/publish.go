package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// NodePublishVolume implements csi.NodeServer: it makes the staged file
// system, or the device itself, appear at the target path, which it creates.
func (s *Server) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return answer(s.publishVolume(ctx, req))
}

func (s *Server) publishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalid("volume id is missing")
	case req.GetTargetPath() == "":
		return nil, invalid("target path is missing")
	}
	a, err := accessOf(req.GetVolumeCapability(), req.GetVolumeContext(), req.GetPublishContext())
	if err != nil {
		return nil, err
	}
	if req.GetStagingTargetPath() == "" {
		return nil, fmt.Errorf("staging target path is missing: %w", ErrPrecondition)
	}
	a.readOnly = a.readOnly || req.GetReadonly()
	unlock, err := s.lock(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.publish(whole(ctx), req, a); err != nil {
		return nil, fmt.Errorf("publish volume %s: %w", req.GetVolumeId(), err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// publish runs with the volume's lock held.
func (s *Server) publish(ctx context.Context, req *csi.NodePublishVolumeRequest, a access) error {
	device, err := s.device(ctx, req.GetVolumeId())
	if err != nil {
		return err
	}
	staging, err := canonical(req.GetStagingTargetPath())
	if err != nil {
		return err
	}
	target, err := canonical(req.GetTargetPath())
	if err != nil {
		return err
	}
	published, err := s.published(ctx, device, staging, target, a)
	if err != nil || published {
		return err
	}
	if a.block {
		return s.publishBlock(device, target, a)
	}
	return s.publishMount(ctx, req.GetVolumeId(), device, staging, target, a)
}

// published reports whether the volume is at target as wanted, and refuses a
// second target where the access mode allows but one.
func (s *Server) published(ctx context.Context, device Device, staging, target string, a access) (bool, error) {
	mounts, err := s.mounts(func(m *Mount) bool {
		if m.Point == target {
			return true
		}
		// Binds of a directory inside the volume belong to a workload that has
		// it published already.
		whole := m.Device == device.Number && m.Root == "/"
		return (whole || m.Node == device.Number) && m.Point != staging
	})
	if err != nil {
		return false, err
	}
	var at *Mount
	other := ""
	for i := range mounts {
		if mounts[i].Point == target {
			at = &mounts[i] // the last one is on top
		} else {
			other = mounts[i].Point
		}
	}
	switch {
	case at == nil && other != "" && a.mode != csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		return false, fmt.Errorf("volume is published at %s, and access mode %s allows one place: %w", other, a.mode, ErrPrecondition)
	case at == nil:
		return false, nil
	case !at.isOf(device.Number):
		s.log.Warn("unmount stale target", "path", target)
		return false, s.unmountAll(ctx, target)
	case at.ReadOnly != a.readOnly || (at.Node == device.Number) != a.block:
		return false, fmt.Errorf("%s is published read-only %t, block %t: %w", target, at.ReadOnly, at.Node == device.Number, ErrExists)
	}
	return true, nil
}

func (s *Server) publishMount(ctx context.Context, volume string, device Device, staging, target string, a access) error {
	if err := s.restage(ctx, volume, device, staging, a); err != nil {
		return err
	}
	mounts, err := s.mountsAt(staging)
	if err != nil {
		return err
	}
	if len(mounts) == 0 || mounts[len(mounts)-1].Device != device.Number {
		return fmt.Errorf("volume is not staged at %s: %w", staging, ErrPrecondition)
	}
	if mounts[len(mounts)-1].ReadOnly && !a.readOnly {
		return fmt.Errorf("volume is staged read-only: %w", ErrPrecondition)
	}
	if !a.readOnly {
		if err := giveToGroup(ctx, staging, a.group); err != nil {
			return err
		}
	}
	if err := os.Mkdir(target, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.host.Bind(staging, target, a.readOnly)
}

// restage stages a volume again whose staging mount is of a device that is no
// longer the volume's: engine and node plugin died together, and the volume was
// attached anew. Kubelet does not stage again what it has staged.
func (s *Server) restage(ctx context.Context, volume string, device Device, staging string, a access) error {
	mounts, err := s.mountsAt(staging)
	if err != nil || len(mounts) == 0 || mounts[len(mounts)-1].Device == device.Number {
		return err
	}
	a.readOnly = mounts[len(mounts)-1].ReadOnly // of the staging, not of this pod
	if err := s.stage(ctx, volume, device, staging, a); err != nil {
		return fmt.Errorf("stage again: %w", err)
	}
	return nil
}

func (s *Server) publishBlock(device Device, target string, a access) error {
	if a.readOnly && !device.ReadOnly && !s.cfg.DevicesByCaller {
		// A read-only mount of a device node does not make the device read-only.
		return fmt.Errorf("read-only block access needs a volume that the controller published read-only: %w", ErrPrecondition)
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o640)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return s.host.Bind(device.Path, target, a.readOnly)
}

// NodeUnpublishVolume implements csi.NodeServer. It needs neither the device
// nor the volume to exist, and never removes content: only an empty directory
// or the file that held the device.
func (s *Server) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return answer(s.unpublishVolume(ctx, req))
}

func (s *Server) unpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalid("volume id is missing")
	case req.GetTargetPath() == "":
		return nil, invalid("target path is missing")
	}
	unlock, err := s.lock(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.unpublish(ctx, req.GetTargetPath()); err != nil {
		return nil, fmt.Errorf("unpublish volume %s: %w", req.GetVolumeId(), err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (s *Server) unpublish(ctx context.Context, path string) error {
	target, err := canonical(path)
	if err == nil {
		err = s.unmountAll(ctx, target)
	}
	if err == nil {
		err = os.Remove(target)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
