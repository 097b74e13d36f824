package site

import (
	"context"
	"errors"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// A store may need room to be opened: a site that is started on a full disk can have
// volumes that are not open. They are opened when there is room, without anybody's help.

// reopenFullEvery is the time between two looks at them.
const reopenFullEvery = 30 * time.Second

// reopenFull looks after that until ctx ends.
func (s *Site) reopenFull(ctx context.Context) {
	for {
		timer := s.cfg.Clock.NewTimer(reopenFullEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
		for _, id := range s.unopenedForRoom() {
			if _, err := s.ReopenVolume(ctx, id); err != nil && !errors.Is(err, journal.ErrFull) && ctx.Err() == nil {
				s.cfg.Log.Error("volume did not open for want of room, and does not now", "volume", id, "error", err)
			}
		}
	}
}

// unopenedForRoom are the volumes that did not open for want of room, and for which there
// may be some now: a segment at least, as far as the file systems tell. An attempt in vain
// stops the group's other members' checkpoints for a moment.
func (s *Site) unopenedForRoom() (ids []journal.VolumeID) {
	s.mu.Lock()
	for id, v := range s.volumes {
		if v.eng == nil && v.record.Store != "" && errors.Is(v.failed, journal.ErrFull) {
			ids = append(ids, id)
		}
	}
	s.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	for _, dir := range s.forkRoots() {
		if _, free, err := s.cfg.FS.Space(dir); err == nil && free < s.segmentBytes() {
			return nil
		}
	}
	return ids
}
