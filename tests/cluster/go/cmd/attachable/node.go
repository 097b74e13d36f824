package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"
)

// node mounts volumes on one node, one at a time.
type node struct {
	csi.UnimplementedNodeServer
	store   store
	name    string
	mounter *mount.SafeFormatAndMount
	mu      sync.Mutex
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{
			Rpc: &csi.NodeServiceCapability_RPC{Type: kind},
		}})
	}
	return answer, nil
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.name}, nil
}

func (n *node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	image, _, err := n.store.image(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if on, err := n.store.attachedTo(r.GetVolumeId()); err != nil || on != n.name {
		return nil, errors.Join(status.Errorf(codes.FailedPrecondition, "volume %s is attached to %q, not to %s", r.GetVolumeId(), on, n.name), err)
	}
	device, err := attach(ctx, image)
	if err != nil {
		return nil, err
	}
	if r.GetVolumeCapability().GetBlock() != nil {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	target, mounted := r.GetStagingTargetPath(), false
	if mounted, err = n.mounter.IsMountPoint(target); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	if mounted {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, err
	}
	fsType, options := r.GetVolumeCapability().GetMount().GetFsType(), r.GetVolumeCapability().GetMount().GetMountFlags()
	if fsType == "" {
		fsType = "xfs" // ext4 lets only holders of CAP_SYS_RESOURCE grow it
	}
	return &csi.NodeStageVolumeResponse{}, n.mounter.FormatAndMount(device, target, fsType, options)
}

func (n *node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := mount.CleanupMountPoint(r.GetStagingTargetPath(), n.mounter, true); err != nil {
		return nil, err
	}
	image, _, err := n.store.image(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	device, err := deviceOf(image)
	if err == nil && device != "" {
		_, err = command(ctx, "losetup", "--detach", device)
	}
	return &csi.NodeUnstageVolumeResponse{}, err
}

func (n *node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	source, target := r.GetStagingTargetPath(), r.GetTargetPath()
	if mounted, err := n.mounter.IsMountPoint(target); err == nil && mounted {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if r.GetVolumeCapability().GetBlock() != nil {
		image, _, err := n.store.image(r.GetVolumeId())
		if err != nil {
			return nil, err
		}
		if source, err = deviceOf(image); err != nil || source == "" {
			return nil, errors.Join(status.Errorf(codes.FailedPrecondition, "volume %s is not staged", r.GetVolumeId()), err)
		}
		if err := makeFile(target); err != nil {
			return nil, err
		}
	} else if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, err
	}
	options := []string{"bind"}
	if r.GetReadonly() {
		options = append(options, "ro")
	}
	return &csi.NodePublishVolumeResponse{}, n.mounter.Mount(source, target, "", options)
}

func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func (n *node) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &csi.NodeUnpublishVolumeResponse{}, mount.CleanupMountPoint(r.GetTargetPath(), n.mounter, true)
}

func (n *node) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	image, size, err := n.store.image(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	device, err := deviceOf(image)
	if err != nil || device == "" {
		return nil, errors.Join(status.Errorf(codes.FailedPrecondition, "volume %s is not staged", r.GetVolumeId()), err)
	}
	if _, err := command(ctx, "losetup", "--set-capacity", device); err != nil {
		return nil, err
	}
	if r.GetVolumeCapability().GetBlock() == nil {
		if _, err := mount.NewResizeFs(utilexec.New()).Resize(device, r.GetVolumePath()); err != nil {
			return nil, err
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, nil
}

// attach returns the loop device of an image, and makes one if there is none.
func attach(ctx context.Context, image string) (string, error) {
	if device, err := deviceOf(image); err != nil || device != "" {
		return device, err
	}
	return command(ctx, "losetup", "--find", "--show", "--direct-io=on", image)
}

// deviceOf returns the loop device of an image, or "". The kernel's list is read instead of asking losetup for the
// file: that looks at the files of all devices of the machine, and one of them may be on a file system that hangs.
func deviceOf(image string) (string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == image {
			return "/dev/" + strings.Split(file, "/")[3], nil
		}
	}
	return "", nil
}

// command runs a program and returns what it printed, or an error that says what it complained of.
func command(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}
