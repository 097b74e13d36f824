package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
)

// ControllerPublishVolume implements csi.ControllerServer: it opens the
// volume and provides its device on the node.
//
// Read-only publishing makes the device of a raw block volume refuse writes.
// The device of one with a file system stays writable, because mounting a
// crash-consistent image, even read-only, replays the file system's journal;
// the node service then mounts it read-only.
func (s *Server) ControllerPublishVolume(ctx context.Context, req *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	return answer(s.publishVolume(ctx, req))
}

func (s *Server) publishVolume(ctx context.Context, req *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalid("volume id is missing")
	case req.GetNodeId() == "":
		return nil, invalid("node id is missing")
	}
	if err := checkCapability(req.GetVolumeCapability()); err != nil {
		return nil, err
	}
	v, err := s.volume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Nodes.Check(ctx, req.GetNodeId()); err != nil {
		return nil, err
	}
	mode := req.GetVolumeCapability().GetAccessMode().GetMode()
	wanted := catalog.Publish{
		State: catalog.PublishStarting, Node: req.GetNodeId(),
		ReadOnly: req.GetReadonly() || mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		Block:    req.GetVolumeCapability().GetBlock() != nil, Mode: mode.String(),
	}
	entered := s.afterHalf(func() { s.waiting.giveWay(v.ID.String()) })
	defer entered()
	return run(ctx, s, []string{volumeKey(v.Name)}, func(ctx context.Context) (*csi.ControllerPublishVolumeResponse, error) {
		entered()
		if err := s.publish(ctx, req.GetVolumeId(), wanted); err != nil {
			return nil, fmt.Errorf("publish volume %s: %w", req.GetVolumeId(), err)
		}
		return &csi.ControllerPublishVolumeResponse{
			PublishContext: map[string]string{csikeys.ReadOnly: fmt.Sprint(wanted.ReadOnly)},
		}, nil
	})
}

// publish runs with the volume's lock held.
func (s *Server) publish(ctx context.Context, id string, wanted catalog.Publish) error {
	if err := s.leaveOther(ctx, id, wanted.Node); err != nil {
		return err
	}
	v, err := s.beginPublish(id, wanted)
	if err != nil {
		return err
	}
	if v.Publish.State == catalog.PublishActive {
		// The device may be missing all the same: Reconcile cannot attach on a
		// site that had been demoted, and is not repeated when it is primary.
		return s.attach(ctx, v)
	}
	if err := s.attach(ctx, v); err != nil {
		if undo := s.unpublish(ctx, v); undo != nil {
			// The record stays; a repeated call or the next start detaches.
			s.log.Warn("undo publish", "volume", id, "error", undo)
		}
		return err
	}
	_, err = s.updateVolume(id, func(v *catalog.Volume) error {
		v.Publish.State = catalog.PublishActive
		return nil
	})
	return err
}

// leaveOther finishes the end of an attachment to another node that an earlier call has
// left. With this node in the record first, nobody would, and a call to detach it from
// that one would find nothing to do while its device is in use there.
func (s *Server) leaveOther(ctx context.Context, id, node string) error {
	v, err := s.volume(id)
	if err != nil || v.Publish == nil || v.Publish.State == catalog.PublishActive || v.Publish.Node == node {
		return err
	}
	return s.unpublish(ctx, v)
}

// beginPublish records the intent, or finds that it is fulfilled.
func (s *Server) beginPublish(id string, wanted catalog.Publish) (v catalog.Volume, err error) {
	err = s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		if v, err = readyVolume(tx, id); err != nil {
			return err
		}
		if v.Publish != nil && v.Publish.State == catalog.PublishActive {
			return compatible(*v.Publish, wanted)
		}
		if err := s.checkNodeLimit(tx, v, wanted.Node); err != nil {
			return err
		}
		v.Publish, v.Unused = &wanted, false
		return tx.PutVolume(v)
	})
	return v, err
}

// compatible checks a repeated publish. Single writer modes differ only in how
// often the node may publish, which the node service checks.
func compatible(have, wanted catalog.Publish) error {
	if have.Node != wanted.Node {
		return fmt.Errorf("volume is published on node %s: %w", have.Node, ErrInUse)
	}
	wanted.State = have.State
	if have != wanted {
		return fmt.Errorf("volume is published (%s, block %t, read-only %t): %w", have.Mode, have.Block, have.ReadOnly, ErrExists)
	}
	return nil
}

func (s *Server) checkNodeLimit(tx *catalog.Tx, v catalog.Volume, node string) error {
	if s.cfg.MaxVolumesPerNode == 0 {
		return nil
	}
	published, err := tx.Volumes(func(other *catalog.Volume) bool {
		return other.Publish != nil && other.Publish.Node == node && other.ID != v.ID
	})
	if err != nil {
		return err
	}
	if int64(len(published)) >= s.cfg.MaxVolumesPerNode {
		return fmt.Errorf("node %s has %d volumes, as many as it may: %w", node, len(published), ErrExhausted)
	}
	return nil
}

func attachOptions(v catalog.Volume) AttachOptions {
	return AttachOptions{ReadOnly: v.Publish.ReadOnly && v.Publish.Block, BlockBytes: v.BlockBytes}
}

// ControllerUnpublishVolume implements csi.ControllerServer. Everything
// written to the device is durable on return. FailedPrecondition while the
// device is still mounted or open.
func (s *Server) ControllerUnpublishVolume(ctx context.Context, req *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	return answer(s.unpublishVolume(ctx, req))
}

func (s *Server) unpublishVolume(ctx context.Context, req *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume id is missing")
	}
	done := &csi.ControllerUnpublishVolumeResponse{}
	v, found, err := s.findVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if !found || !publishedTo(v, req.GetNodeId()) {
		return done, nil
	}
	entered := s.afterHalf(func() {
		s.waiting.giveWay(v.ID.String())
		s.waiting.takeOff(v.ID.String(), req.GetNodeId())
	})
	defer entered()
	return run(ctx, s, []string{volumeKey(v.Name)}, func(ctx context.Context) (*csi.ControllerUnpublishVolumeResponse, error) {
		entered()
		v, found, err := s.findVolume(req.GetVolumeId())
		if err == nil && found && publishedTo(v, req.GetNodeId()) {
			err = s.unpublish(ctx, v)
		}
		if err != nil {
			return nil, fmt.Errorf("unpublish volume %s: %w", req.GetVolumeId(), err)
		}
		return done, nil
	})
}

// publishedTo reports whether a volume is published to a node; empty: to any.
func publishedTo(v catalog.Volume, node string) bool {
	return v.Publish != nil && (node == "" || v.Publish.Node == node)
}

// unpublish detaches a volume that has a publish record and drops the record.
func (s *Server) unpublish(ctx context.Context, v catalog.Volume) error {
	v.Publish.State = catalog.PublishStopping
	if err := s.putVolume(v); err != nil {
		return err
	}
	if err := s.cfg.Backend.Detach(ctx, v.ID); err != nil {
		err = fmt.Errorf("detach: %w", err)
		if errors.Is(err, ErrInUse) {
			// Nothing happened. A restart has to attach it again for its users.
			v.Publish.State = catalog.PublishActive
			err = errors.Join(err, s.putVolume(v))
		}
		return err
	}
	v.Publish = nil
	return s.putVolume(v)
}
