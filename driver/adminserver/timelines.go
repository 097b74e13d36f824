package adminserver

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// VolumeTimelines are the timelines of a volume, parents before their children, or why
// they are not known.
type VolumeTimelines struct {
	Horizon journal.Position
	Uses    []journal.TimelineUse
	Err     error
}

// ListTimelines implements adminv1.AdminServer.
func (s *Server) ListTimelines(ctx context.Context, req *adminv1.ListTimelinesRequest) (*adminv1.ListTimelinesResponse, error) {
	if s.cfg.Timelines == nil {
		return nil, status.Error(codes.FailedPrecondition, "this site does not tell what timelines take: see "+s.command("group describe")+", which lists them")
	}
	st, err := s.cfg.Site.Groups().State(req.GetGroup())
	if err != nil {
		return nil, answer(err)
	}
	resp := &adminv1.ListTimelinesResponse{}
	known := s.cfg.Timelines(ctx, st.Members)
	for i, id := range st.Members {
		v, err := s.cfg.Site.Volume(id)
		if err != nil {
			return nil, answer(err)
		}
		out := &adminv1.VolumeTimelines{VolumeId: id.String(), VolumeName: v.Name, Claim: v.Claim}
		if err := known[i].Err; err != nil {
			out.Error = err.Error()
		} else {
			out.Horizon, out.Timelines = position(known[i].Horizon), timelineUses(known[i].Uses)
		}
		resp.Volumes = append(resp.Volumes, out)
	}
	return resp, nil
}

func timelineUses(uses []journal.TimelineUse) []*adminv1.Timeline {
	var out []*adminv1.Timeline
	for i := range uses {
		u := &uses[i]
		line := &adminv1.Timeline{
			Id: uint64(u.ID), Created: stamp(u.Created), Reason: u.Reason, Active: u.Active,
			LastSeq: uint64(u.Last), Bytes: u.Bytes, Leads: u.Leads, Pins: u.Pins, Views: uint32(u.Views), Orphaned: u.Orphaned(),
		}
		if u.Parent.Timeline != 0 {
			line.Parent = position(u.Parent)
		}
		out = append(out, line)
	}
	return out
}
