package controller

import (
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/journal"
)

// readyVolume returns a volume that callers may see; ids that this driver
// cannot have given are not found either.
func readyVolume(tx *catalog.Tx, id string) (catalog.Volume, error) {
	if id == "" {
		return catalog.Volume{}, invalid("volume id is missing")
	}
	notFound := fmt.Errorf("volume %s: %w", id, ErrNotFound)
	parsed, err := journal.ParseVolumeID(id)
	if err != nil {
		return catalog.Volume{}, notFound
	}
	v, err := tx.Volume(parsed)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return v, notFound
	case err != nil:
		return v, err
	case v.State != catalog.StateReady:
		return v, notFound
	}
	return v, nil
}

// readySnapshot returns a snapshot that callers may see, with its pin.
func readySnapshot(tx *catalog.Tx, id string) (catalog.Snapshot, catalog.Pin, error) {
	snapshot, pin, err := anySnapshot(tx, id)
	if err == nil && pin.State != catalog.StateReady {
		err = fmt.Errorf("snapshot %s: %w", id, ErrNotFound)
	}
	return snapshot, pin, err
}

func anySnapshot(tx *catalog.Tx, id string) (catalog.Snapshot, catalog.Pin, error) {
	snapshot, err := tx.Snapshot(id)
	if errors.Is(err, catalog.ErrNotFound) {
		return snapshot, catalog.Pin{}, fmt.Errorf("snapshot %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return snapshot, catalog.Pin{}, err
	}
	pin, err := tx.Pin(snapshot.Pin)
	return snapshot, pin, err
}

// volume is readyVolume in a transaction of its own.
func (s *Server) volume(id string) (v catalog.Volume, err error) {
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		v, err = readyVolume(tx, id)
		return err
	})
	return v, err
}

func (s *Server) findVolumeNamed(name string) (v catalog.Volume, found bool, err error) {
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		v, err = tx.VolumeNamed(name)
		return err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return v, false, nil
	}
	return v, err == nil, err
}

func (s *Server) putVolume(v catalog.Volume) error {
	return s.cfg.Catalog.Update(func(tx *catalog.Tx) error { return tx.PutVolume(v) })
}

// updateVolume changes a ready volume in a transaction.
func (s *Server) updateVolume(id string, change func(*catalog.Volume) error) (v catalog.Volume, err error) {
	err = s.cfg.Catalog.Update(func(tx *catalog.Tx) error {
		if v, err = readyVolume(tx, id); err != nil {
			return err
		}
		if err := change(&v); err != nil {
			return err
		}
		return tx.PutVolume(v)
	})
	return v, err
}

// describe returns a volume as callers see it.
func (s *Server) describe(v catalog.Volume) *csi.Volume {
	out := &csi.Volume{
		VolumeId:           v.ID.String(),
		CapacityBytes:      v.SizeBytes,
		AccessibleTopology: topologyOf(v.Topology),
	}
	if v.FSType != "" {
		out.VolumeContext = map[string]string{csikeys.FSType: v.FSType}
	}
	switch {
	case v.Source == nil:
	case v.Source.Snapshot != "":
		out.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: v.Source.Snapshot},
		}}
	default:
		out.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.Source.Volume},
		}}
	}
	return out
}

// describeSnapshot returns a snapshot whose pin is ready as callers see it. It
// leaves accessible_topology unset, which means "wherever volumes can be": a
// site has one node, and volumes made from the snapshot say which.
func describeSnapshot(snapshot catalog.Snapshot, pin catalog.Pin) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId:      snapshot.ID,
		SourceVolumeId:  snapshot.Source.String(),
		SizeBytes:       pin.Members[snapshot.Source],
		CreationTime:    timestamppb.New(pin.Time),
		ReadyToUse:      true,
		GroupSnapshotId: snapshot.GroupSnapshot,
	}
}

// publishedNodes returns the nodes that a volume is published on.
func publishedNodes(v catalog.Volume) []string {
	if v.Publish == nil {
		return nil
	}
	return []string{v.Publish.Node}
}
