package adminserver

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
)

// ListTimelines implements adminv1.AdminServer. A member that is not open is left out.
func (s *Server) ListTimelines(_ context.Context, req *adminv1.ListTimelinesRequest) (*adminv1.ListTimelinesResponse, error) {
	if s.cfg.Timelines == nil {
		return nil, status.Error(codes.FailedPrecondition, "this site does not tell what timelines take: see `group describe`, which lists them")
	}
	st, err := s.cfg.Site.Groups().State(req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	resp := &adminv1.ListTimelinesResponse{}
	for _, id := range st.Members {
		v, err := s.cfg.Site.Volume(id)
		if err != nil {
			return nil, answer(err)
		}
		uses, err := s.cfg.Timelines(id)
		if err != nil {
			continue
		}
		out := &adminv1.VolumeTimelines{VolumeId: id.String(), VolumeName: v.Name, Horizon: position(v.Horizon)}
		for i := range uses {
			u := &uses[i]
			line := &adminv1.Timeline{
				Id: uint64(u.ID), Created: stamp(u.Created), Reason: u.Reason, Active: u.Active,
				LastSeq: uint64(u.Last), Bytes: u.Bytes, Leads: u.Leads, Pins: u.Pins, Views: uint32(u.Views), Orphaned: u.Orphaned(),
			}
			if u.Parent.Timeline != 0 {
				line.Parent = position(u.Parent)
			}
			out.Timelines = append(out.Timelines, line)
		}
		resp.Volumes = append(resp.Volumes, out)
	}
	return resp, nil
}
