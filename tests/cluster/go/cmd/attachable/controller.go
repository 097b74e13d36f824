package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// controller makes, attaches and grows volumes, one at a time.
type controller struct {
	csi.UnimplementedControllerServer
	store store
	mu    sync.Mutex
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{
			Rpc: &csi.ControllerServiceCapability_RPC{Type: kind},
		}})
	}
	return answer, nil
}

func (c *controller) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.GetVolumeContentSource() != nil {
		return nil, status.Error(codes.InvalidArgument, "volumes have no content source here")
	}
	if err := supported(r.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	size := max(r.GetCapacityRange().GetRequiredBytes(), smallest)
	if size > largest {
		return nil, status.Errorf(codes.ResourceExhausted, "%d bytes are wanted and %d are left", size, int64(largest))
	}
	if limit := r.GetCapacityRange().GetLimitBytes(); limit > 0 && size > limit {
		return nil, status.Errorf(codes.OutOfRange, "a volume has %d bytes at least", int64(smallest))
	}
	_, have, err := c.store.image(r.GetName())
	switch {
	case status.Code(err) == codes.NotFound:
		if err := c.store.resize(r.GetName(), size); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case have != size:
		return nil, status.Errorf(codes.AlreadyExists, "volume %s has %d bytes", r.GetName(), have)
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: r.GetName(), CapacityBytes: size}}, nil
}

// supported refuses what needs more than one node.
func supported(capabilities []*csi.VolumeCapability) error {
	for _, capability := range capabilities {
		switch mode := capability.GetAccessMode().GetMode(); mode {
		case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
			csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:
		default:
			return status.Errorf(codes.InvalidArgument, "access mode %s is not supported", mode)
		}
	}
	return nil
}

func (c *controller) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, _, err := c.store.image(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := supported(r.GetVolumeCapabilities()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: r.GetVolumeCapabilities(), VolumeContext: r.GetVolumeContext(), Parameters: r.GetParameters(),
	}}, nil
}

func (c *controller) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	folder, err := c.store.folder(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if on, err := c.store.attachedTo(r.GetVolumeId()); err != nil || on != "" {
		return nil, errors.Join(status.Errorf(codes.FailedPrecondition, "volume %s is attached to %s", r.GetVolumeId(), on), err)
	}
	return &csi.DeleteVolumeResponse{}, os.RemoveAll(folder)
}

// ControllerPublishVolume is the fence: a volume that one node has is refused to all others.
func (c *controller) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	image, _, err := c.store.image(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	on, err := c.store.attachedTo(r.GetVolumeId())
	switch {
	case err != nil:
		return nil, err
	case on == "":
		err = os.WriteFile(filepath.Join(filepath.Dir(image), "node"), []byte(r.GetNodeId()+"\n"), 0o600)
	case on != r.GetNodeId():
		err = status.Errorf(codes.FailedPrecondition, "volume %s is attached to %s", r.GetVolumeId(), on)
	}
	if err != nil {
		return nil, err
	}
	return &csi.ControllerPublishVolumeResponse{}, nil
}

func (c *controller) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	folder, err := c.store.folder(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	on, err := c.store.attachedTo(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if on == r.GetNodeId() || r.GetNodeId() == "" {
		if err := os.Remove(filepath.Join(folder, "node")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

func (c *controller) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, have, err := c.store.image(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	size := max(r.GetCapacityRange().GetRequiredBytes(), have)
	if size > largest {
		return nil, status.Errorf(codes.OutOfRange, "a volume has %d bytes at most", int64(largest))
	}
	if err := c.store.resize(r.GetVolumeId(), size); err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: size, NodeExpansionRequired: true}, nil
}
