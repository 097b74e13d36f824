package control

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/journal"
)

// Scrub implements the RPC.
func (s *Server) Scrub(req *enginev1.ScrubRequest, stream enginev1.Engine_ScrubServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	done, err := s.volume.Scrub(ctx, req.GetRepair(), func(step engine.ScrubStep) {
		progress := &enginev1.ScrubProgress{ReadBytes: step.ReadBytes, TotalBytes: step.TotalBytes, Damaged: uint32(step.Damaged), Repairing: step.Repairing}
		if stream.Send(&enginev1.ScrubResponse{Step: &enginev1.ScrubResponse_Progress{Progress: progress}}) != nil {
			cancel() // nobody waits any more
		}
	})
	if err != nil {
		return toStatus(err)
	}
	return stream.Send(&enginev1.ScrubResponse{Step: &enginev1.ScrubResponse_Report{Report: encodeScrubbed(done)}})
}

// Scrub has all of the store read, and with repair has its peer asked for what is
// damaged; told is called at once and while it goes on. A scrub that is under way is
// followed. When ctx ends it goes on in its own time. engine.ErrClosed where the engine
// ends in order; ErrOutdated from an engine of a version before.
func (c *Client) Scrub(ctx context.Context, repair bool, told func(engine.ScrubStep)) (engine.Scrubbed, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Scrub(ctx, &enginev1.ScrubRequest{Repair: repair})
	if err != nil {
		return engine.Scrubbed{}, c.fail(err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return engine.Scrubbed{}, fmt.Errorf("engine of volume %s ended the scrub without a report: %w", c.volume, io.ErrUnexpectedEOF)
		case status.Code(err) == codes.Unimplemented:
			return engine.Scrubbed{}, fmt.Errorf("the engine of volume %s scrubs in its own time alone: %w", c.volume, ErrOutdated)
		case err != nil:
			return engine.Scrubbed{}, c.fail(err)
		case m.GetReport() != nil:
			return decodeScrubbed(m.GetReport()), nil
		}
		p := m.GetProgress()
		told(engine.ScrubStep{ReadBytes: p.GetReadBytes(), TotalBytes: p.GetTotalBytes(), Damaged: int(p.GetDamaged()), Repairing: p.GetRepairing()})
	}
}

func encodeScrubbed(r engine.Scrubbed) *enginev1.ScrubReport {
	out := &enginev1.ScrubReport{ReadBytes: r.ReadBytes, Peer: r.Peer}
	if r.PeerErr != nil {
		out.PeerError = r.PeerErr.Error()
	}
	for i := range r.Damaged {
		d := &r.Damaged[i]
		out.Damaged = append(out.Damaged, &enginev1.Damage{File: d.File, Offset: d.Offset, What: d.What, Wanted: d.Wanted, Found: d.Found, Reason: d.Reason})
	}
	for _, p := range r.Repaired {
		out.Repaired = append(out.Repaired, &enginev1.Repaired{File: p.File, Offset: p.Offset, What: p.What})
	}
	return out
}

// decodeScrubbed leaves out when places were repaired, and of which kind damage is.
func decodeScrubbed(m *enginev1.ScrubReport) engine.Scrubbed {
	out := engine.Scrubbed{ReadBytes: m.GetReadBytes(), Peer: m.GetPeer()}
	if why := m.GetPeerError(); why != "" {
		out.PeerErr = errors.New(why)
	}
	for _, d := range m.GetDamaged() {
		place := journal.CorruptError{File: d.GetFile(), Offset: d.GetOffset(), What: d.GetWhat(), Wanted: d.GetWanted(), Found: d.GetFound()}
		out.Damaged = append(out.Damaged, journal.DamagedPlace{CorruptError: place, Reason: d.GetReason()})
	}
	for _, p := range m.GetRepaired() {
		out.Repaired = append(out.Repaired, journal.RepairedPlace{File: p.GetFile(), Offset: p.GetOffset(), What: p.GetWhat()})
	}
	return out
}
