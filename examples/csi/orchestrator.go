package main

import (
	"context"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

const sizeBytes = 1 << 30

// orchestrator does what Kubernetes does: it knows volumes by name and calls
// the controller and the node service in the order that CSI prescribes.
type orchestrator struct {
	controller csi.ControllerClient
	node       csi.NodeClient
	nodeID     string
	dir        string
	group      string
}

type volume struct{ name, fsType string }

func (v volume) capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: v.fsType}},
	}
}

// provide makes a volume, attaches, stages and publishes it.
func (o *orchestrator) provide(ctx context.Context, v volume) (id string, err error) {
	made, err := o.create(ctx, v)
	if err != nil {
		return "", err
	}
	id = made.GetVolumeId()
	attached, err := o.controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: id, NodeId: o.nodeID, VolumeCapability: v.capability(), VolumeContext: made.GetVolumeContext(),
	})
	if err != nil {
		return "", fmt.Errorf("attach %s: %w", v.name, err)
	}
	if err := os.MkdirAll(o.staging(v), 0o750); err != nil {
		return "", fmt.Errorf("make staging directory: %w", err)
	}
	_, err = o.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: id, PublishContext: attached.GetPublishContext(), StagingTargetPath: o.staging(v),
		VolumeCapability: v.capability(), VolumeContext: made.GetVolumeContext(),
	})
	if err != nil {
		return "", fmt.Errorf("format and mount %s: %w", v.name, err)
	}
	_, err = o.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: id, PublishContext: attached.GetPublishContext(), StagingTargetPath: o.staging(v), TargetPath: o.target(v),
		VolumeCapability: v.capability(), VolumeContext: made.GetVolumeContext(),
	})
	if err != nil {
		return "", fmt.Errorf("publish %s: %w", v.name, err)
	}
	return id, nil
}

// create makes the volume, or finds the one that an earlier call made. The
// parameters are a StorageClass's; the group is made with its first member.
func (o *orchestrator) create(ctx context.Context, v volume) (*csi.Volume, error) {
	made, err := o.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               v.name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: sizeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{v.capability()},
		Parameters:         map[string]string{"group": o.group, "checkpointInterval": "1s", "window": "24h"},
	})
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", v.name, err)
	}
	return made.GetVolume(), nil
}

// unmount undoes what the node service does in provide.
func (o *orchestrator) unmount(ctx context.Context, v volume, id string) error {
	if _, err := o.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: o.target(v)}); err != nil {
		return fmt.Errorf("unpublish %s: %w", v.name, err)
	}
	if _, err := o.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: o.staging(v)}); err != nil {
		return fmt.Errorf("unmount %s: %w", v.name, err)
	}
	return nil
}

// remove undoes provide.
func (o *orchestrator) remove(ctx context.Context, v volume) error {
	made, err := o.create(ctx, v) // its id; makes it only to be deleted if it is gone
	if err != nil {
		return err
	}
	id := made.GetVolumeId()
	if err := o.unmount(ctx, v, id); err != nil {
		return err
	}
	if _, err := o.controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: o.nodeID}); err != nil {
		return fmt.Errorf("detach %s: %w", v.name, err)
	}
	if _, err := o.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		return fmt.Errorf("delete %s: %w", v.name, err)
	}
	if err := os.RemoveAll(o.staging(v)); err != nil {
		return fmt.Errorf("remove staging directory: %w", err)
	}
	return nil
}

// snapshot takes a snapshot of the whole group, or finds the one of that name.
// It is asked of one member; all are in it.
func (o *orchestrator) snapshot(ctx context.Context, volumeID string) (*csi.Snapshot, error) {
	taken, err := o.controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: volumeID, Name: o.group + "-first"})
	if err != nil {
		return nil, fmt.Errorf("take snapshot: %w", err)
	}
	return taken.GetSnapshot(), nil
}

// removeSnapshot undoes snapshot.
func (o *orchestrator) removeSnapshot(ctx context.Context, of volume) error {
	made, err := o.create(ctx, of)
	if err != nil {
		return err
	}
	s, err := o.snapshot(ctx, made.GetVolumeId())
	if err != nil {
		return err
	}
	if _, err := o.controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.GetSnapshotId()}); err != nil {
		return fmt.Errorf("delete snapshot: %w", err)
	}
	return nil
}
