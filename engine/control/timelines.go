package control

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/journal"
)

// Timelines are those of a store, and how far back it reaches.
type Timelines struct {
	Horizon journal.Position
	Uses    []journal.TimelineUse // parents before children
}

// Timelines implements the RPC.
func (s *Server) Timelines(context.Context, *enginev1.TimelinesRequest) (*enginev1.TimelinesResponse, error) {
	return on(s, func(e *engine.Engine) (*enginev1.TimelinesResponse, error) {
		return encodeTimelineUses(Timelines{e.Store().Horizon(), e.Store().TimelineUses()}), nil
	})
}

// Timelines asks for the timelines of the open store: ErrNoStore, or why it is not
// open. ErrOutdated from an engine of a version before.
func (c *Client) Timelines(ctx context.Context) (Timelines, error) {
	m, err := c.rpc.Timelines(ctx, &enginev1.TimelinesRequest{})
	if status.Code(err) == codes.Unimplemented {
		return Timelines{}, fmt.Errorf("the engine of volume %s does not tell of timelines: %w", c.volume, ErrOutdated)
	}
	if err != nil {
		return Timelines{}, c.fail(err)
	}
	return decodeTimelineUses(m), nil
}

func encodeTimelineUses(t Timelines) *enginev1.TimelinesResponse {
	out := &enginev1.TimelinesResponse{Horizon: encodePosition(t.Horizon)}
	for i := range t.Uses {
		u := &t.Uses[i]
		out.Timelines = append(out.Timelines, &enginev1.TimelineUse{
			Timeline: encodeTimelines([]journal.Timeline{u.Timeline})[0], LastSeq: uint64(u.Last), Bytes: u.Bytes,
			Active: u.Active, Leads: u.Leads, Pins: u.Pins, Views: uint32(u.Views),
		})
	}
	return out
}

func decodeTimelineUses(m *enginev1.TimelinesResponse) Timelines {
	out := Timelines{Horizon: decodePosition(m.GetHorizon())}
	for _, u := range m.GetTimelines() {
		out.Uses = append(out.Uses, journal.TimelineUse{
			Timeline: decodeTimelines([]*enginev1.Timeline{u.GetTimeline()})[0], Last: journal.Seq(u.GetLastSeq()), Bytes: u.GetBytes(),
			Active: u.GetActive(), Leads: u.GetLeads(), Pins: u.GetPins(), Views: int(u.GetViews()),
		})
	}
	return out
}
