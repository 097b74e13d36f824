package node

import (
	"context"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// NodeStageVolume implements csi.NodeServer: it leaves the volume's file
// system, made if the device is blank and as big as the device, mounted at the
// staging path. A raw block volume needs nothing but its device.
func (s *Server) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	return answer(s.stageVolume(ctx, req))
}

func (s *Server) stageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalid("volume id is missing")
	case req.GetStagingTargetPath() == "":
		return nil, invalid("staging target path is missing")
	}
	a, err := accessOf(req.GetVolumeCapability(), req.GetVolumeContext(), req.GetPublishContext())
	if err != nil {
		return nil, err
	}
	// Without the lock: whoever wants to unstage meanwhile must not wait for an
	// engine that may never come.
	if _, err := s.deviceBy(ctx, req.GetVolumeId(), s.cfg.Devices.Await); err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	device, err := s.device(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if a.block {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	target, err := canonical(req.GetStagingTargetPath())
	if err == nil {
		err = s.stage(whole(ctx), req.GetVolumeId(), device, target, a)
	}
	if err != nil {
		return nil, fmt.Errorf("stage volume %s: %w", req.GetVolumeId(), err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// stage runs with the volume's lock held.
func (s *Server) stage(ctx context.Context, volume string, device Device, target string, a access) error {
	staged, err := s.staged(ctx, device, target, a)
	if err != nil {
		return err
	}
	if !staged {
		if err := s.checkUnmounted(device, target); err != nil {
			return err
		}
		if a.fsType, err = s.prepare(ctx, volume, device, a); err != nil {
			return err
		}
		if err := os.MkdirAll(target, 0o750); err != nil {
			return err
		}
		if err := s.host.MountDevice(device.Path, target, a.fsType, a.options(), a.flags); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
	}
	// An earlier call may have been interrupted behind the mount.
	return s.finishStage(ctx, device, target, a)
}

// staged reports whether the device is mounted at target as wanted. A mount of
// another device is what an engine that died left there; its content is out of
// reach, and it is taken away.
func (s *Server) staged(ctx context.Context, device Device, target string, a access) (bool, error) {
	mounts, err := s.mountsAt(target)
	if err != nil || len(mounts) == 0 {
		return false, err
	}
	top := mounts[len(mounts)-1]
	switch {
	case top.Device != device.Number:
		s.log.Warn("unmount stale staging mount", "path", target)
		return false, s.unmountAll(ctx, target)
	case a.named && top.FSType != a.fsType:
		return false, fmt.Errorf("%s is mounted as %s, not %s: %w", target, top.FSType, a.fsType, ErrExists)
	case top.ReadOnly != a.readOnly:
		return false, fmt.Errorf("%s is mounted read-only %t, not %t: %w", target, top.ReadOnly, a.readOnly, ErrExists)
	}
	return true, nil
}

// checkUnmounted refuses to touch a device whose file system is mounted
// elsewhere: checking or repairing it would destroy it.
func (s *Server) checkUnmounted(device Device, target string) error {
	elsewhere, err := s.mounts(func(m *Mount) bool { return m.Device == device.Number })
	if err != nil {
		return err
	}
	if len(elsewhere) > 0 {
		return fmt.Errorf("device is mounted at %s, not at %s: %w", elsewhere[0].Point, target, ErrPrecondition)
	}
	return nil
}

// finishStage does what needs the mount. Doing it again changes nothing.
func (s *Server) finishStage(ctx context.Context, device Device, target string, a access) error {
	mounts, err := s.mountsAt(target)
	if err != nil {
		return err
	}
	if len(mounts) == 0 {
		return fmt.Errorf("%s is not mounted although mount succeeded", target)
	}
	top := mounts[len(mounts)-1]
	if top.FSType == "xfs" {
		// ext4 was grown before it was mounted.
		if err := s.grow(ctx, device, top); err != nil {
			return err
		}
	}
	if a.readOnly {
		return nil
	}
	return giveToGroup(ctx, target, a.group)
}

// NodeUnstageVolume implements csi.NodeServer. It needs neither the device nor
// the volume to exist. The staging directory is the caller's.
func (s *Server) NodeUnstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return answer(s.unstageVolume(ctx, req))
}

func (s *Server) unstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalid("volume id is missing")
	case req.GetStagingTargetPath() == "":
		return nil, invalid("staging target path is missing")
	}
	unlock, err := s.lock(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	target, err := canonical(req.GetStagingTargetPath())
	if os.IsNotExist(err) {
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	if err == nil {
		err = s.unmountAll(ctx, target)
	}
	if err != nil {
		return nil, fmt.Errorf("unstage volume %s: %w", req.GetVolumeId(), err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}
