package site

import (
	"context"
	"fmt"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// ScrubVolume reads all that a volume's store has and compares it with its checksums.
// With repair the volume's peer is asked at once for what is damaged, and what the store
// can mend by itself is mended. The volume serves meanwhile; told is called now and then.
// group.ErrBusy while another call scrubs it; the store's error where it is not open.
func (s *Site) ScrubVolume(ctx context.Context, id journal.VolumeID, repair bool, told func(engine.ScrubStep)) (engine.Scrubbed, error) {
	ctx, eng, done, err := s.beginScrub(ctx, id)
	if err != nil {
		return engine.Scrubbed{}, err
	}
	defer done()
	return eng.Scrub(ctx, engine.Scrub{Clock: s.cfg.Clock, Peer: s.peerOf(id), Repair: func() bool { return repair }, Told: told})
}

// beginScrub keeps others from scrubbing a volume, and its store open, until done; ctx
// ends when the store is to be closed.
func (s *Site) beginScrub(ctx context.Context, id journal.VolumeID) (_ context.Context, eng *engine.Engine, done func(), err error) {
	if eng, err = s.engineOf(id); err != nil {
		return nil, nil, nil, err
	}
	v, err := s.volumeOf(id)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.stopScrub != nil || v.eng != eng {
		stop()
		return nil, nil, nil, fmt.Errorf("volume %s is being scrubbed or closed: %w", id, group.ErrBusy)
	}
	v.stopScrub = stop
	v.joined.Add(1)
	return ctx, eng, func() {
		s.mu.Lock()
		v.stopScrub = nil
		s.mu.Unlock()
		stop()
		v.joined.Done()
	}, nil
}

// peerOf is the site that has the other copy of a volume; empty: there is none.
func (s *Site) peerOf(id journal.VolumeID) string {
	v, err := s.volumeOf(id)
	if err != nil {
		return ""
	}
	st, err := s.groups.State(s.recordOf(v).Group)
	switch {
	case err != nil:
		return ""
	case st.Role == group.RoleReplica:
		return st.Source
	}
	return st.Settings.ReplicateTo
}
