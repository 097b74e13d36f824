package adminserver

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/journal"
)

// ScrubStep is how far a scrub is that somebody waits for.
type ScrubStep struct {
	engine.ScrubStep
	// Waiting is set, and the rest is not, while there is no engine yet to do it.
	Waiting bool
}

// ScrubVolume implements adminv1.AdminServer.
func (s *Server) ScrubVolume(req *adminv1.ScrubVolumeRequest, stream adminv1.Admin_ScrubVolumeServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	began := s.cfg.Clock.Now()
	id, err := s.oneVolume(req.GetVolume())
	if err != nil {
		return err
	}
	done, err := s.cfg.Site.Scrub(ctx, id, req.GetRepair(), func(step ScrubStep) {
		progress := &adminv1.ScrubProgress{ReadBytes: step.ReadBytes, TotalBytes: step.TotalBytes, Damaged: uint32(step.Damaged), Repairing: step.Repairing, Waiting: step.Waiting}
		if stream.Send(&adminv1.ScrubVolumeResponse{Step: &adminv1.ScrubVolumeResponse_Progress{Progress: progress}}) != nil {
			cancel() // nobody waits any more
		}
	})
	if err != nil {
		return answer(err)
	}
	now, err := s.cfg.Site.Volume(id)
	if err != nil {
		return answer(err)
	}
	// What a site knows of a volume may be older than the scrub's end.
	now.Journal.Damaged = len(done.Damaged)
	report := &adminv1.ScrubReport{Volume: s.volume(now), ReadBytes: done.ReadBytes, Took: s.since(began), Peer: done.Peer}
	if done.PeerErr != nil {
		report.PeerError = done.PeerErr.Error()
	}
	for _, d := range done.Damaged {
		report.Damaged = append(report.Damaged, &adminv1.Damage{File: d.File, Offset: d.Offset, What: d.What, Wanted: d.Wanted, Found: d.Found, Reason: d.Reason})
	}
	for _, p := range done.Repaired {
		report.Repaired = append(report.Repaired, &adminv1.Repaired{File: p.File, Offset: p.Offset, What: p.What})
	}
	return stream.Send(&adminv1.ScrubVolumeResponse{Step: &adminv1.ScrubVolumeResponse_Report{Report: report}})
}

// oneVolume returns the one volume of an id, a name or a claim.
func (s *Server) oneVolume(text string) (journal.VolumeID, error) {
	found := s.volumesNamed(text)
	switch len(found) {
	case 0:
		return journal.VolumeID{}, status.Errorf(codes.NotFound, "no volume has the id, the name or the claim %q: see %s", text, s.command("status -o wide"))
	case 1:
		return found[0].ID, nil
	}
	return journal.VolumeID{}, status.Errorf(codes.InvalidArgument, "%d volumes have the name or the claim %q: give the id, see %s", len(found), text, s.command("status -o wide"))
}
