package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
)

// ControllerExpandVolume implements csi.ControllerServer. The volume may be in
// use. A device shows its new size on return; a file system on it has to be
// grown by NodeExpandVolume.
func (s *Server) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	return answer(s.expandVolume(ctx, req))
}

func (s *Server) expandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalid("volume id is missing")
	case req.GetCapacityRange().GetRequiredBytes() == 0 && req.GetCapacityRange().GetLimitBytes() == 0:
		return nil, invalid("capacity range is missing")
	}
	if c := req.GetVolumeCapability(); c != nil {
		if err := checkCapability(c); err != nil {
			return nil, err
		}
	}
	v, err := s.volume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return run(ctx, s, []string{volumeKey(v.Name)}, func(ctx context.Context) (*csi.ControllerExpandVolumeResponse, error) {
		v, err := s.expand(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("expand volume %s: %w", req.GetVolumeId(), err)
		}
		return &csi.ControllerExpandVolumeResponse{
			CapacityBytes:         v.SizeBytes,
			NodeExpansionRequired: needsNodeExpansion(v, req.GetVolumeCapability()),
		}, nil
	})
}

// needsNodeExpansion reports whether a file system may have to be grown. The
// device itself has its new size already.
func needsNodeExpansion(v catalog.Volume, capability *csi.VolumeCapability) bool {
	block := capability.GetBlock() != nil || (v.Publish != nil && v.Publish.Block)
	return !block
}

// expand runs with the volume's lock held.
func (s *Server) expand(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (catalog.Volume, error) {
	v, err := s.updateVolume(req.GetVolumeId(), func(v *catalog.Volume) (err error) {
		if v.SizeBytes >= req.GetCapacityRange().GetRequiredBytes() {
			if !fits(v.SizeBytes, req.GetCapacityRange()) {
				return fmt.Errorf("%w: the volume has %d bytes and cannot shrink", ErrOutOfRange, v.SizeBytes)
			}
			if v.ExpandTo > 0 { // nobody asks for that any more; it may be half done
				v.ExpandTo = v.SizeBytes
			}
			return nil
		}
		// Less than an earlier attempt wanted, where that was refused.
		v.ExpandTo, err = chooseSize(req.GetCapacityRange(), v.SizeBytes, v.SizeBytes)
		return err
	})
	if err != nil || v.ExpandTo == 0 {
		return v, err
	}
	return s.finishExpand(ctx, v)
}

// finishExpand carries out a recorded expansion. An earlier attempt, at more, may have
// grown the store further already.
func (s *Server) finishExpand(ctx context.Context, v catalog.Volume) (catalog.Volume, error) {
	size, err := s.grow(ctx, v)
	if err != nil {
		return v, err
	}
	return s.updateVolume(v.ID.String(), func(v *catalog.Volume) error {
		v.SizeBytes, v.ExpandTo = max(size, v.SizeBytes), 0
		return nil
	})
}
