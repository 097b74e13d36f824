package control

import (
	"slices"
	"time"

	enginev1 "github.com/lockstep-csi/lockstep/api/engine/v1"
	"github.com/lockstep-csi/lockstep/journal"
)

// Checkpoints implements the RPC.
func (s *Server) Checkpoints(req *enginev1.CheckpointsRequest, stream enginev1.Engine_CheckpointsServer) error {
	switch {
	case req.GetOutline() && req.GetGroup() == "":
		return invalid("an outline is of one group")
	case req.GetOpenable() && (req.GetGroup() == "" || req.GetOutline() || req.GetPinned()):
		return invalid("what can be opened is of one group, in full, pinned or not")
	}
	eng, err := s.volume.Engine()
	if err != nil {
		return toStatus(err)
	}
	var wanted []journal.Checkpoint
	if req.GetOpenable() {
		wanted = eng.Store().OpenableIn(req.GetGroup(), journal.CheckpointNumber(req.GetFrom()), journal.CheckpointNumber(req.GetTo()))
	} else {
		wanted = wantedCheckpoints(req, eng.Store().Checkpoints(), eng.Store().Pins())
	}
	if req.GetOutline() {
		for part := range slices.Chunk(wanted, outlineBatch) {
			if err := stream.Send(&enginev1.CheckpointsResponse{Outline: encodeOutline(part)}); err != nil {
				return err
			}
		}
		return nil
	}
	for part := range slices.Chunk(wanted, checkpointBatch) {
		if err := stream.Send(&enginev1.CheckpointsResponse{Checkpoints: encodeCheckpoints(part)}); err != nil {
			return err
		}
	}
	if !req.GetPinned() {
		return nil
	}
	for part := range slices.Chunk(eng.Store().LeftCheckpoints(req.GetGroup()), checkpointBatch) {
		if err := stream.Send(&enginev1.CheckpointsResponse{Left: encodeCheckpoints(part)}); err != nil {
			return err
		}
	}
	return nil
}

func encodeCheckpoints(all []journal.Checkpoint) []*enginev1.Checkpoint {
	out := make([]*enginev1.Checkpoint, len(all))
	for i, c := range all {
		out[i] = encodeCheckpoint(c)
	}
	return out
}

// wantedCheckpoints are those of all that a request asks for, in their order.
func wantedCheckpoints(req *enginev1.CheckpointsRequest, all []journal.Checkpoint, pins map[string]journal.Position) []journal.Checkpoint {
	pinned := make(map[journal.Position]bool, len(pins))
	for _, at := range pins {
		pinned[at] = true
	}
	return slices.DeleteFunc(all, func(c journal.Checkpoint) bool {
		n := uint64(c.Number)
		return n < req.GetFrom() || req.GetTo() != 0 && n > req.GetTo() || req.GetGroup() != "" && c.Group != req.GetGroup() || req.GetPinned() && !pinned[c.Position]
	})
}

// encodeOutline is for checkpoints of one group.
func encodeOutline(checkpoints []journal.Checkpoint) *enginev1.Outline {
	out := &enginev1.Outline{Numbers: make([]int64, 0, len(checkpoints)), Times: make([]int64, 0, len(checkpoints))}
	var number, at int64
	var members []journal.VolumeID
	for _, c := range checkpoints {
		n, t := int64(c.Number), c.Time.UnixNano()
		out.Numbers, out.Times = append(out.Numbers, n-number), append(out.Times, t-at)
		number, at = n, t
		if len(out.Members) == 0 || !slices.Equal(c.Members, members) {
			members = c.Members
			run := &enginev1.OutlineMembers{}
			for _, id := range members {
				run.Volumes = append(run.Volumes, id[:])
			}
			out.Members = append(out.Members, run)
		}
		out.Members[len(out.Members)-1].Checkpoints++
	}
	return out
}

// appendOutline appends the checkpoints of an outline, without positions, to all;
// nil has none.
func appendOutline(all []journal.Checkpoint, group string, m *enginev1.Outline) ([]journal.Checkpoint, error) {
	numbers, times := m.GetNumbers(), m.GetTimes()
	if len(times) != len(numbers) {
		return nil, invalid("an outline of %d checkpoints has %d times", len(numbers), len(times))
	}
	var number, at int64
	for _, run := range m.GetMembers() {
		if uint64(run.GetCheckpoints()) > uint64(len(numbers)) {
			return nil, invalid("an outline has members of %d more checkpoints, and %d of these", run.GetCheckpoints(), len(numbers))
		}
		var members []journal.VolumeID
		for _, b := range run.GetVolumes() {
			id, err := decodeVolume(b)
			if err != nil {
				return nil, err
			}
			members = append(members, id)
		}
		for i := range run.GetCheckpoints() {
			number, at = number+numbers[i], at+times[i]
			c := journal.Checkpoint{Number: journal.CheckpointNumber(number), Time: time.Unix(0, at).UTC()}
			c.Group, c.Members = group, members
			all = append(all, c)
		}
		numbers, times = numbers[run.GetCheckpoints():], times[run.GetCheckpoints():]
	}
	if len(numbers) > 0 {
		return nil, invalid("an outline does not say the members of %d checkpoints", len(numbers))
	}
	return all, nil
}
