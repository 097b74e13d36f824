package harness

import (
	"context"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/node/loop"
)

// Volume is a volume made over CSI.
type Volume struct {
	ID      string
	Name    string
	FSType  string // empty: raw block
	Staging string
	Target  string // mount point or block file once published

	context map[string]string
}

// VolumeSpec is what CreateVolume is asked for.
type VolumeSpec struct {
	Name       string
	SizeBytes  int64
	FSType     string
	Parameters map[string]string
	Snapshot   string // content source; empty: none
}

func (v *Volume) capability() *csi.VolumeCapability {
	mode := &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}
	if v.FSType == "" {
		return &csi.VolumeCapability{AccessMode: mode, AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}
	}
	return &csi.VolumeCapability{AccessMode: mode, AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: v.FSType}}}
}

// CreateVolume calls CSI CreateVolume.
func (s *Site) CreateVolume(ctx context.Context, spec VolumeSpec) (*Volume, error) {
	v := &Volume{Name: spec.Name, FSType: spec.FSType}
	req := &csi.CreateVolumeRequest{
		Name: spec.Name, Parameters: spec.Parameters, VolumeCapabilities: []*csi.VolumeCapability{v.capability()},
		CapacityRange: &csi.CapacityRange{RequiredBytes: spec.SizeBytes},
	}
	if spec.Snapshot != "" {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: spec.Snapshot}}}
	}
	resp, err := csi.NewControllerClient(s.CSI).CreateVolume(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", spec.Name, err)
	}
	v.ID, v.context = resp.Volume.VolumeId, resp.Volume.VolumeContext
	return v, nil
}

// Adopted is a volume that the site has become primary for by failover: it is
// known under the id that it has on every site.
func (s *Site) Adopted(v *Volume) *Volume {
	return &Volume{ID: v.ID, Name: v.Name, FSType: v.FSType}
}

// Publish attaches, stages and publishes a volume on the site's node and
// returns its mount point or block file.
func (s *Site) Publish(ctx context.Context, v *Volume) error {
	resp, err := csi.NewControllerClient(s.CSI).ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: v.ID, NodeId: "node-" + s.Config.Name, VolumeCapability: v.capability(), VolumeContext: v.context})
	if err != nil {
		return fmt.Errorf("controller publish %s: %w", v.Name, err)
	}
	v.Staging = s.env.Path("mnt", s.Config.Name, v.Name+"-staging")
	v.Target = s.env.Path("mnt", s.Config.Name, v.Name)
	if err := os.MkdirAll(v.Staging, 0o755); err != nil {
		return err
	}
	if err := s.noteDevices(ctx); err != nil {
		return err
	}
	node := csi.NewNodeClient(s.CSI)
	_, err = node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.ID, PublishContext: resp.PublishContext, StagingTargetPath: v.Staging, VolumeCapability: v.capability(), VolumeContext: v.context})
	if err != nil {
		return fmt.Errorf("stage %s: %w", v.Name, err)
	}
	_, err = node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.ID, PublishContext: resp.PublishContext, StagingTargetPath: v.Staging, TargetPath: v.Target,
		VolumeCapability: v.capability(), VolumeContext: v.context})
	if err != nil {
		return fmt.Errorf("publish %s: %w", v.Name, err)
	}
	return nil
}

// noteDevices remembers the site's devices, for Leftovers.
func (s *Site) noteDevices(ctx context.Context) error {
	status, err := s.Admin.GetStatus(ctx, &adminv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	attached, err := loop.List()
	if err != nil {
		return err
	}
	for _, v := range status.GetVolumes() {
		for _, d := range attached {
			if d.Path() == v.GetDevice() {
				s.env.devices[d.Name()] = true
			}
		}
	}
	return nil
}

// Unpublish undoes Publish; with detach also the attachment.
func (s *Site) Unpublish(ctx context.Context, v *Volume, detach bool) error {
	node := csi.NewNodeClient(s.CSI)
	if _, err := node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID, TargetPath: v.Target}); err != nil {
		return fmt.Errorf("unpublish %s: %w", v.Name, err)
	}
	if _, err := node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging}); err != nil {
		return fmt.Errorf("unstage %s: %w", v.Name, err)
	}
	if !detach {
		return nil
	}
	_, err := csi.NewControllerClient(s.CSI).ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.ID, NodeId: "node-" + s.Config.Name})
	if err != nil {
		return fmt.Errorf("controller unpublish %s: %w", v.Name, err)
	}
	return nil
}

// Snapshot calls CSI CreateSnapshot.
func (s *Site) Snapshot(ctx context.Context, v *Volume, name string, parameters map[string]string) (*csi.Snapshot, error) {
	resp, err := csi.NewControllerClient(s.CSI).CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: name, Parameters: parameters})
	if err != nil {
		return nil, fmt.Errorf("create snapshot %s: %w", name, err)
	}
	return resp.Snapshot, nil
}

// ForgetMounts takes away the mounts of a volume whose device is gone, as a
// restart of the machine would. Publish then begins anew.
func (v *Volume) ForgetMounts() error { return Unmount(v.Target, v.Staging) }
