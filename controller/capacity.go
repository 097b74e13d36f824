package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Sizes of volumes, in bytes.
const (
	// sizeUnit is what sizes are rounded up to where the limit allows it.
	sizeUnit = 1 << 20
	// sizeAtom is what every size is a multiple of: the bigger logical block.
	sizeAtom = 4096
	// minVolumeBytes is the smallest volume.
	minVolumeBytes = 1 << 20
	// minExt4Bytes leaves room for a file system journal.
	minExt4Bytes = 16 << 20
	// minXFSBytes is what mkfs.xfs asks for since xfsprogs 5.19.
	minXFSBytes = 300 << 20
	// maxVolumeBytes is the store's limit.
	maxVolumeBytes = 1 << 48
	// defaultVolumeBytes is the size when a request names none.
	defaultVolumeBytes = 1 << 30
)

// chooseSize picks the size for a range: the smallest multiple of sizeUnit
// that is at least required and floor, or of sizeAtom if that one would be
// above the limit. Without any wish it is fallback, and at least floor.
func chooseSize(r *csi.CapacityRange, floor, fallback int64) (int64, error) {
	required, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	if required < 0 || limit < 0 || (limit > 0 && required > limit) {
		return 0, invalid("capacity range %d to %d", required, limit)
	}
	if required == 0 {
		required = fallback
		if limit > 0 {
			required = min(required, limit)
		}
	}
	wanted := max(required, floor, minVolumeBytes)
	if wanted > maxVolumeBytes {
		return 0, fmt.Errorf("%w: %d bytes are more than the largest volume's %d", ErrOutOfRange, wanted, int64(maxVolumeBytes))
	}
	for _, unit := range []int64{sizeUnit, sizeAtom} {
		size := (wanted + unit - 1) / unit * unit
		if limit == 0 || size <= limit {
			return size, nil
		}
	}
	return 0, fmt.Errorf("%w: a volume of at least %d bytes in multiples of %d is needed, but the limit is %d",
		ErrOutOfRange, wanted, sizeAtom, limit)
}

// fits reports whether an existing size satisfies a range.
func fits(sizeBytes int64, r *csi.CapacityRange) bool {
	return sizeBytes >= r.GetRequiredBytes() && (r.GetLimitBytes() == 0 || sizeBytes <= r.GetLimitBytes())
}

// floorFor is the smallest volume that can have all of the capabilities. It
// is known here and refused here, because mkfs would fail only when the volume
// is staged.
func floorFor(capabilities []*csi.VolumeCapability, fsType string) int64 {
	floor := int64(minVolumeBytes)
	for _, c := range capabilities {
		if c.GetMount() == nil {
			continue
		}
		wanted := c.GetMount().GetFsType()
		if wanted == "" {
			wanted = fsType
		}
		if wanted == "xfs" {
			floor = max(floor, minXFSBytes)
		} else {
			floor = max(floor, minExt4Bytes)
		}
	}
	return floor
}

// GetCapacity implements csi.ControllerServer. A topology or a capability
// that this site cannot serve has no capacity. Parameters that cannot work have
// all of it: a scheduler that is told of no capacity lets pods wait for "free
// storage" for ever, whereas CreateVolume, once it is called, says at the claim
// what is wrong.
func (s *Server) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	return answer(s.getCapacity(ctx, req))
}

func (s *Server) getCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	parameters, err := parseVolumeParameters(req.GetParameters())
	if err != nil {
		return &csi.GetCapacityResponse{AvailableCapacity: maxVolumeBytes, MaximumVolumeSize: wrapperspb.Int64(maxVolumeBytes)}, nil
	}
	if !s.cfg.Nodes.Reaches(req.GetAccessibleTopology().GetSegments()) {
		return &csi.GetCapacityResponse{}, nil
	}
	if len(req.GetVolumeCapabilities()) > 0 && checkCapabilities(req.GetVolumeCapabilities()) != nil {
		return &csi.GetCapacityResponse{}, nil
	}
	capacity, err := s.cfg.Backend.Capacity(ctx, CapacityQuery{BackingClass: parameters.BackingClass, JournalClass: parameters.JournalClass, Labels: req.GetAccessibleTopology().GetSegments()})
	if err != nil {
		return nil, fmt.Errorf("get capacity: %w", err)
	}
	largest := capacity.MaximumVolumeBytes
	if largest == 0 || largest > maxVolumeBytes {
		largest = maxVolumeBytes
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: capacity.AvailableBytes,
		MaximumVolumeSize: wrapperspb.Int64(largest),
		MinimumVolumeSize: wrapperspb.Int64(floorFor(req.GetVolumeCapabilities(), parameters.FSType)),
	}, nil
}
