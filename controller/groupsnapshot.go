package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/journal"
)

// CreateVolumeGroupSnapshot implements csi.GroupControllerServer: the images
// of several members of one group at one recovery point. FailedPrecondition
// for volumes of different groups, because nothing orders their writes.
func (s *Server) CreateVolumeGroupSnapshot(ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	return answer(s.createGroupSnapshot(ctx, req))
}

func (s *Server) createGroupSnapshot(ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	if err := requireName("name", req.GetName()); err != nil {
		return nil, err
	}
	if len(req.GetSourceVolumeIds()) == 0 {
		return nil, invalid("source volume ids are missing")
	}
	at, err := parseSnapshotParameters(req.GetParameters())
	if err != nil {
		return nil, err
	}
	keys := []string{groupSnapshotKey(req.GetName())}
	return run(ctx, s, keys, func(ctx context.Context) (*csi.CreateVolumeGroupSnapshotResponse, error) {
		g, pin, err := s.cutGroupSnapshot(ctx, req.GetName(), req.GetSourceVolumeIds(), asOfText(at))
		if err != nil {
			return nil, fmt.Errorf("create group snapshot %s: %w", req.GetName(), err)
		}
		return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: describeGroupSnapshot(g, pin)}, nil
	})
}

// cutGroupSnapshot makes the group snapshot, or returns the one that an
// earlier call made. It runs with the group snapshot's lock held.
func (s *Server) cutGroupSnapshot(ctx context.Context, name string, sources []string, asOf string) (catalog.GroupSnapshot, catalog.Pin, error) {
	old, pin, found, err := s.findGroupSnapshot(groupSnapshotID(name))
	if err != nil {
		return old, pin, err
	}
	if found && pin.State == catalog.StateReady {
		if !sameVolumes(old.Sources, sources) || pin.AsOf != asOf {
			return old, pin, fmt.Errorf("%w: it is of volumes %v, asOf %q", ErrExists, old.Sources, pin.AsOf)
		}
		return old, pin, nil
	}
	if found {
		// An earlier call failed and could not be rolled back then.
		if err := s.finishDropPin(ctx, pin); err != nil {
			return old, pin, fmt.Errorf("%w: %w", errLeft, err)
		}
	}
	g, pin, err := s.beginGroupSnapshot(name, sources, asOf)
	if err != nil {
		return g, pin, err
	}
	taken, err := s.takePin(ctx, pin)
	if err != nil {
		return g, pin, s.undoPin(ctx, pin, err)
	}
	for _, id := range g.Sources {
		if _, member := taken.Members[id]; !member {
			return g, pin, s.undoPin(ctx, pin, fmt.Errorf("%w: volume %s was no member of group %s at checkpoint %d",
				ErrNoPoint, id, pin.Group, taken.Checkpoint))
		}
	}
	return g, taken, s.settlePin(ctx, taken)
}

// beginGroupSnapshot records the intent.
func (s *Server) beginGroupSnapshot(name string, sources []string, asOf string) (g catalog.GroupSnapshot, pin catalog.Pin, err error) {
	g = catalog.GroupSnapshot{ID: groupSnapshotID(name), Name: name}
	g.Pin = "group-snapshot-" + g.ID
	err = s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		groupName, err := commonGroup(tx, sources, &g)
		if err != nil {
			return err
		}
		pin = catalog.Pin{
			Name: g.Pin, Group: groupName, State: catalog.StateCreating, AsOf: asOf,
			OwnerKind: catalog.OwnerGroupSnapshot, OwnerID: g.ID,
		}
		if err := tx.PutPin(pin); err != nil {
			return err
		}
		return tx.PutGroupSnapshot(g)
	})
	return g, pin, err
}

// commonGroup checks that the sources are members of one group, and lists
// them in g.
func commonGroup(tx *catalog.Tx, sources []string, g *catalog.GroupSnapshot) (string, error) {
	var first catalog.Volume
	for i, id := range slices.Compact(slices.Sorted(slices.Values(sources))) {
		v, err := readyVolume(tx, id)
		if err != nil {
			return "", err
		}
		if i == 0 {
			first = v
		}
		if v.Group != first.Group {
			return "", fmt.Errorf("%w: volumes %s and %s are in different groups (%q and %q), so their writes have no common order; "+
				"create them with the same %q parameter", ErrPrecondition, first.ID, v.ID, first.Group, v.Group, ParameterGroup)
		}
		g.Sources = append(g.Sources, v.ID)
		g.Snapshots = append(g.Snapshots, memberSnapshotID(g.ID, v.ID))
	}
	return first.Group, nil
}

func sameVolumes(have []journal.VolumeID, wanted []string) bool {
	sorted := slices.Compact(slices.Sorted(slices.Values(wanted)))
	return slices.EqualFunc(have, sorted, func(id journal.VolumeID, text string) bool { return id.String() == text })
}

// findGroupSnapshot returns a group snapshot with its pin in any state.
func (s *Server) findGroupSnapshot(id string) (g catalog.GroupSnapshot, pin catalog.Pin, found bool, err error) {
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		if g, err = tx.GroupSnapshot(id); err != nil {
			return err
		}
		found = true
		pin, err = tx.Pin(g.Pin)
		return err
	})
	if !found && errors.Is(err, catalog.ErrNotFound) {
		return g, pin, false, nil
	}
	return g, pin, found, err
}

// checkMembers compares the snapshot ids that a request gives, if any, with
// those that the group snapshot has.
func checkMembers(g catalog.GroupSnapshot, given []string) error {
	if len(given) == 0 {
		return nil
	}
	have, want := slices.Sorted(slices.Values(g.Snapshots)), slices.Sorted(slices.Values(given))
	if !slices.Equal(have, want) {
		return invalid("group snapshot %s has the snapshots %v, not %v", g.ID, have, want)
	}
	return nil
}

// DeleteVolumeGroupSnapshot implements csi.GroupControllerServer.
func (s *Server) DeleteVolumeGroupSnapshot(ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	return answer(s.deleteGroupSnapshot(ctx, req))
}

func (s *Server) deleteGroupSnapshot(ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	if req.GetGroupSnapshotId() == "" {
		return nil, invalid("group snapshot id is missing")
	}
	done := &csi.DeleteVolumeGroupSnapshotResponse{}
	g, _, found, err := s.findGroupSnapshot(req.GetGroupSnapshotId())
	if err != nil || !found {
		return done, err
	}
	if err := checkMembers(g, req.GetSnapshotIds()); err != nil {
		return nil, err
	}
	return run(ctx, s, []string{groupSnapshotKey(g.Name)}, func(ctx context.Context) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
		if err := s.dropPin(ctx, g.Pin); err != nil {
			return nil, fmt.Errorf("delete group snapshot %s: %w", g.ID, err)
		}
		return done, nil
	})
}

// GetVolumeGroupSnapshot implements csi.GroupControllerServer.
func (s *Server) GetVolumeGroupSnapshot(_ context.Context, req *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	return answer(s.getGroupSnapshot(req))
}

func (s *Server) getGroupSnapshot(req *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	if req.GetGroupSnapshotId() == "" {
		return nil, invalid("group snapshot id is missing")
	}
	g, pin, found, err := s.findGroupSnapshot(req.GetGroupSnapshotId())
	if err != nil {
		return nil, err
	}
	if !found || pin.State != catalog.StateReady {
		return nil, fmt.Errorf("group snapshot %s: %w", req.GetGroupSnapshotId(), ErrNotFound)
	}
	if err := checkMembers(g, req.GetSnapshotIds()); err != nil {
		return nil, err
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: describeGroupSnapshot(g, pin)}, nil
}

// describeGroupSnapshot returns a group snapshot whose pin is ready as callers
// see it.
func describeGroupSnapshot(g catalog.GroupSnapshot, pin catalog.Pin) *csi.VolumeGroupSnapshot {
	out := &csi.VolumeGroupSnapshot{
		GroupSnapshotId: g.ID,
		CreationTime:    timestamppb.New(pin.Time),
		ReadyToUse:      true,
	}
	for i, id := range g.Snapshots {
		member := catalog.Snapshot{ID: id, Pin: g.Pin, Source: g.Sources[i], GroupSnapshot: g.ID}
		out.Snapshots = append(out.Snapshots, describeSnapshot(member, pin))
	}
	return out
}
