package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
)

// CreateSnapshot implements csi.ControllerServer: it pins one recovery point
// of the volume's group, a new one or, with ParameterAsOf, one of the past.
func (s *Server) CreateSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	return answer(s.createSnapshot(ctx, req))
}

func (s *Server) createSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if err := requireName("name", req.GetName()); err != nil {
		return nil, err
	}
	if req.GetSourceVolumeId() == "" {
		return nil, invalid("source volume id is missing")
	}
	at, err := parseSnapshotParameters(req.GetParameters())
	if err != nil {
		return nil, err
	}
	if err := s.reachable(req.GetAccessibilityRequirements()); err != nil {
		return nil, err
	}
	keys := []string{snapshotKey(req.GetName())}
	return run(ctx, s, keys, func(ctx context.Context) (*csi.CreateSnapshotResponse, error) {
		snapshot, pin, err := s.cutSnapshot(ctx, req.GetName(), req.GetSourceVolumeId(), asOfText(at))
		if err != nil {
			return nil, fmt.Errorf("create snapshot %s: %w", req.GetName(), err)
		}
		return &csi.CreateSnapshotResponse{Snapshot: describeSnapshot(snapshot, pin)}, nil
	})
}

// cutSnapshot makes the snapshot, or returns the one that an earlier call
// made. It runs with the snapshot's lock held.
func (s *Server) cutSnapshot(ctx context.Context, name, source, asOf string) (catalog.Snapshot, catalog.Pin, error) {
	old, pin, found, err := s.findSnapshot(snapshotID(name))
	if err != nil {
		return old, pin, err
	}
	if found && pin.State == catalog.StateReady {
		if old.Source.String() != source || pin.AsOf != asOf {
			return old, pin, fmt.Errorf("%w: it is of volume %s, asOf %q", ErrExists, old.Source, pin.AsOf)
		}
		return old, pin, nil
	}
	if found {
		// An earlier call failed and could not be rolled back then.
		if err := s.finishDropPin(ctx, pin); err != nil {
			return old, pin, fmt.Errorf("%w: %w", errLeft, err)
		}
	}
	snapshot, pin, err := s.beginSnapshot(name, source, asOf)
	if err != nil {
		return snapshot, pin, err
	}
	taken, err := s.takePin(ctx, pin)
	if err != nil {
		return snapshot, pin, s.undoPin(ctx, pin, err)
	}
	if _, member := taken.Members[snapshot.Source]; !member {
		return snapshot, pin, s.undoPin(ctx, pin, fmt.Errorf("%w: volume %s was no member of group %s at checkpoint %d",
			ErrNoPoint, source, pin.Group, taken.Checkpoint))
	}
	return snapshot, taken, s.settlePin(ctx, taken)
}

// beginSnapshot records the intent.
func (s *Server) beginSnapshot(name, source, asOf string) (snapshot catalog.Snapshot, pin catalog.Pin, err error) {
	id := snapshotID(name)
	err = s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		v, err := readyVolume(tx, source)
		if err != nil {
			return err
		}
		pin = catalog.Pin{
			Name: "snapshot-" + id, Group: v.Group, State: catalog.StateCreating, AsOf: asOf,
			OwnerKind: catalog.OwnerSnapshot, OwnerID: id,
		}
		snapshot = catalog.Snapshot{ID: id, Name: name, Pin: pin.Name, Source: v.ID}
		if err := tx.PutPin(pin); err != nil {
			return err
		}
		return tx.PutSnapshot(snapshot)
	})
	return snapshot, pin, err
}

// findSnapshot returns a snapshot with its pin in any state.
func (s *Server) findSnapshot(id string) (snapshot catalog.Snapshot, pin catalog.Pin, found bool, err error) {
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		snapshot, pin, err = anySnapshot(tx, id)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return snapshot, pin, false, nil
	}
	return snapshot, pin, err == nil, err
}

// DeleteSnapshot implements csi.ControllerServer. InvalidArgument for a member
// of a group snapshot, FailedPrecondition while a volume is being made from it.
func (s *Server) DeleteSnapshot(ctx context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	return answer(s.deleteSnapshot(ctx, req.GetSnapshotId()))
}

func (s *Server) deleteSnapshot(ctx context.Context, id string) (*csi.DeleteSnapshotResponse, error) {
	if id == "" {
		return nil, invalid("snapshot id is missing")
	}
	done := &csi.DeleteSnapshotResponse{}
	snapshot, _, found, err := s.findSnapshot(id)
	if err != nil || !found {
		return done, err
	}
	if snapshot.GroupSnapshot != "" {
		return nil, invalid("snapshot %s is part of group snapshot %s and can only be deleted with it", id, snapshot.GroupSnapshot)
	}
	return run(ctx, s, []string{snapshotKey(snapshot.Name)}, func(ctx context.Context) (*csi.DeleteSnapshotResponse, error) {
		if err := s.dropPin(ctx, snapshot.Pin); err != nil {
			return nil, fmt.Errorf("delete snapshot %s: %w", id, err)
		}
		return done, nil
	})
}

// dropPin releases a recorded pin and what it belongs to; no error if it is
// gone already.
func (s *Server) dropPin(ctx context.Context, name string) error {
	var pin catalog.Pin
	err := s.cfg.Catalog.Update(func(tx *catalog.Tx) (err error) {
		if pin, err = tx.Pin(name); err != nil {
			return err
		}
		pin, err = beginDropPin(tx, pin)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.finishDropPin(ctx, pin)
}

// GetSnapshot implements csi.ControllerServer.
func (s *Server) GetSnapshot(_ context.Context, req *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	return answer(s.getSnapshot(req.GetSnapshotId()))
}

func (s *Server) getSnapshot(id string) (*csi.GetSnapshotResponse, error) {
	if id == "" {
		return nil, invalid("snapshot id is missing")
	}
	var snapshot *csi.Snapshot
	err := s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		record, pin, err := readySnapshot(tx, id)
		snapshot = describeSnapshot(record, pin)
		return err
	})
	return &csi.GetSnapshotResponse{Snapshot: snapshot}, err
}
