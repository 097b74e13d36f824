package controller

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/controller/catalog"
)

// Lists are in the order of ids. A token says behind which id to go on, so it
// stays valid whatever is created or deleted in the meantime: nothing that
// exists all the while is missed or listed twice.
const tokenPrefix = "after-"

// errToken is what the CSI specification wants for tokens that are not valid.
func errToken(token string) error {
	return fmt.Errorf("starting token %q is not valid, begin again without one: %w", token, ErrBusy)
}

// page collects a bounded number of entries.
type page[E any] struct {
	limit   int
	after   string
	entries []E
	last    string
	next    string
}

func newPage[E any](maxEntries int32, token string) (*page[E], error) {
	if maxEntries < 0 {
		return nil, invalid("max_entries is negative")
	}
	p := &page[E]{limit: int(maxEntries)}
	if token == "" {
		return p, nil
	}
	after, ok := strings.CutPrefix(token, tokenPrefix)
	if raw, err := hex.DecodeString(after); !ok || err != nil || len(raw) == 0 {
		return nil, errToken(token)
	}
	p.after = after
	return p, nil
}

// add takes an entry; false once the page is full and this one is for the next.
func (p *page[E]) add(id string, entry E) bool {
	if p.limit > 0 && len(p.entries) == p.limit {
		p.next = tokenPrefix + p.last
		return false
	}
	p.entries, p.last = append(p.entries, entry), id
	return true
}

// ListVolumes implements csi.ControllerServer.
func (s *Server) ListVolumes(_ context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	return answer(s.listVolumes(req))
}

func (s *Server) listVolumes(req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	p, err := newPage[*csi.ListVolumesResponse_Entry](req.GetMaxEntries(), req.GetStartingToken())
	if err != nil {
		return nil, err
	}
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		return tx.EachVolume(p.after, func(v catalog.Volume) bool {
			if v.State != catalog.StateReady {
				return true
			}
			return p.add(v.ID.String(), &csi.ListVolumesResponse_Entry{
				Volume: s.describe(v),
				Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: publishedNodes(v)},
			})
		})
	})
	if err != nil {
		return nil, err
	}
	return &csi.ListVolumesResponse{Entries: p.entries, NextToken: p.next}, nil
}

// ControllerGetVolume implements csi.ControllerServer.
func (s *Server) ControllerGetVolume(_ context.Context, req *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	return answer(s.getVolume(req.GetVolumeId()))
}

func (s *Server) getVolume(id string) (*csi.ControllerGetVolumeResponse, error) {
	v, err := s.volume(id)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: s.describe(v),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: publishedNodes(v)},
	}, nil
}

// ListSnapshots implements csi.ControllerServer. Members of group snapshots
// are listed too.
func (s *Server) ListSnapshots(_ context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	return answer(s.listSnapshots(req))
}

func (s *Server) listSnapshots(req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	p, err := newPage[*csi.ListSnapshotsResponse_Entry](req.GetMaxEntries(), req.GetStartingToken())
	if err != nil {
		return nil, err
	}
	err = s.cfg.Catalog.View(func(tx *catalog.Tx) error {
		var failed error
		err := tx.EachSnapshot(p.after, func(snapshot catalog.Snapshot) bool {
			if (req.GetSnapshotId() != "" && snapshot.ID != req.GetSnapshotId()) ||
				(req.GetSourceVolumeId() != "" && snapshot.Source.String() != req.GetSourceVolumeId()) {
				return true
			}
			pin, err := tx.Pin(snapshot.Pin)
			if err != nil {
				failed = err
				return false
			}
			if pin.State != catalog.StateReady {
				return true
			}
			return p.add(snapshot.ID, &csi.ListSnapshotsResponse_Entry{Snapshot: describeSnapshot(snapshot, pin)})
		})
		if err != nil {
			return err
		}
		return failed
	})
	if err != nil {
		return nil, err
	}
	return &csi.ListSnapshotsResponse{Entries: p.entries, NextToken: p.next}, nil
}

// ValidateVolumeCapabilities implements csi.ControllerServer. What is not
// supported is told in the message, not as an error.
func (s *Server) ValidateVolumeCapabilities(_ context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	return answer(s.validateVolumeCapabilities(req))
}

func (s *Server) validateVolumeCapabilities(req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if len(req.GetVolumeCapabilities()) == 0 {
		return nil, invalid("volume capabilities are missing")
	}
	v, err := s.volume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := s.confirm(v, req); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext:      req.GetVolumeContext(),
		VolumeCapabilities: req.GetVolumeCapabilities(),
		Parameters:         req.GetParameters(),
		MutableParameters:  req.GetMutableParameters(),
	}}, nil
}

func (s *Server) confirm(v catalog.Volume, req *csi.ValidateVolumeCapabilitiesRequest) error {
	if err := checkCapabilities(req.GetVolumeCapabilities()); err != nil {
		return err
	}
	if floor := floorFor(req.GetVolumeCapabilities(), v.FSType); floor > v.SizeBytes {
		return fmt.Errorf("%w: the file system needs %d bytes, the volume has %d", ErrOutOfRange, floor, v.SizeBytes)
	}
	if _, err := parseVolumeParameters(req.GetParameters()); err != nil {
		return err
	}
	_, err := parseMutableParameters(req.GetMutableParameters())
	return err
}
