package site

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// The pause between two attempts to serve a device that waits doubles from one to the next.
const (
	firstTakeOverPause = time.Second
	maxTakeOverPause   = 30 * time.Second
)

// waitingDevice is a device that the holder keeps and that this process does not serve,
// although it should: I/O on it waits, until an attempt succeeds or the volume is
// detached. Its fields change under Site.mu.
type waitingDevice struct {
	config holder.AttachConfig
	err    error         // of the last attempt
	pause  time.Duration // from it to the next one
	due    time.Time     // the next one
}

// deviceErr is why the volume is attached and its device not served. Site.mu must be held.
func (v *volume) deviceErr() error {
	switch {
	case v.lost != nil:
		return v.lost.err()
	case v.waiting != nil:
		return fmt.Errorf("its device is not served yet, and I/O on it waits; it is tried again: %w", v.waiting.err)
	}
	return nil
}

// resumeAttachments takes over the devices that the holder kept while no
// engine ran; I/O on them has been waiting since. Those over io_uring have failed;
// their next attach makes new ones. Those that were lost are taken away, and replaced.
// Only devices of volumes that are wanted are looked at. One that cannot be had waits for
// serveWaiting.
func (s *Site) resumeAttachments(ctx context.Context, wanted func(journal.VolumeID) bool) error {
	if s.cfg.Holder == nil {
		return nil
	}
	kept, err := s.cfg.Holder.List(ctx)
	if err != nil {
		return err
	}
	devices := s.lostDevices(wanted)
	for _, k := range kept {
		id, err := journal.ParseVolumeID(k.ID)
		if err != nil {
			s.cfg.Log.Warn("holder keeps a device that is not this site's", "id", k.ID)
			continue
		}
		if _, lost := devices[id]; lost || !wanted(id) {
			continue
		}
		if _, err := s.volumeOf(id); err != nil {
			s.cfg.Log.Warn("holder keeps a device of an unknown volume", "volume", id)
			continue
		}
		if k.Transport == fuse.TransportRing {
			// It failed when its engine ended.
			s.cfg.Log.Error("device over io_uring ended with its engine: what is mounted from it must be unmounted, and staged again", "volume", id, "device", k.Device)
			continue
		}
		devices[id] = holder.AttachConfig{Volume: k.ID, BlockBytes: k.BlockBytes, ReadOnly: k.ReadOnly}
	}
	var resuming sync.WaitGroup
	for id, config := range devices {
		resuming.Go(func() { s.resumeAttachment(ctx, id, config) })
	}
	resuming.Wait()
	return nil
}

// lostDevices are the devices that wanted volumes had and are to have anew.
func (s *Site) lostDevices(wanted func(journal.VolumeID) bool) map[journal.VolumeID]holder.AttachConfig {
	s.mu.Lock()
	defer s.mu.Unlock()
	devices := map[journal.VolumeID]holder.AttachConfig{}
	for id, v := range s.volumes {
		if v.lost != nil && v.lost.BlockBytes != 0 && wanted(id) {
			devices[id] = v.lost.config(id)
		}
	}
	return devices
}

// resumeAttachment is resumeAttachments for one device.
func (s *Site) resumeAttachment(ctx context.Context, id journal.VolumeID, config holder.AttachConfig) {
	v, err := s.volumeOf(id)
	if err != nil {
		return
	}
	unlock, err := s.locks.Lock(ctx, volumeKey(id), groups.Key(s.recordOf(v).Group))
	if err != nil {
		return
	}
	defer unlock()
	if err := s.takeOver(ctx, v, config); err != nil {
		s.cfg.Log.Error("device could not be taken over; it is tried again, and its I/O waits", "volume", id, "error", err)
		s.noteUnserved(v, config, err)
	}
}

// noteUnserved has serveWaiting try again after an attempt to serve a device that has failed
// with err, unless it is served all the same. The volume's key must be held.
func (s *Site) noteUnserved(v *volume, config holder.AttachConfig, err error) {
	s.mu.Lock()
	served := v.attachment != nil
	s.mu.Unlock()
	if served {
		return
	}
	s.setWaiting(v, &waitingDevice{config: config, err: err, pause: firstTakeOverPause, due: s.cfg.Clock.Now().Add(firstTakeOverPause)})
	select {
	case s.deviceWaits <- struct{}{}:
	default: // it is going to look anyway
	}
}

// setWaiting notes that the volume's device waits; nil: that it does not.
func (s *Site) setWaiting(v *volume, w *waitingDevice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.waiting = w
}

// checkNotWaiting returns groups.ErrInUse while the volume has a device that waits to be
// served: whoever has it mounted would go on, later, with what the kernel keeps of it.
func (s *Site) checkNotWaiting(id journal.VolumeID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[id]
	if v == nil || v.waiting == nil || v.lost != nil {
		return nil
	}
	return fmt.Errorf("volume %s has a device that waits to be served: unstage and unpublish the volume first: %w: %w", id, groups.ErrInUse, v.waiting.err)
}

// serveWaiting tries to serve the devices that wait until ctx ends.
func (s *Site) serveWaiting(ctx context.Context) {
	for {
		var timer clock.Timer
		var due <-chan time.Time
		if pause, any := s.nextTakeOver(); any {
			timer = s.cfg.Clock.NewTimer(pause)
			due = timer.C()
		}
		select {
		case <-ctx.Done():
		case <-s.deviceWaits:
		case <-due:
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
		var trying sync.WaitGroup
		for _, v := range s.dueTakeOvers() {
			trying.Go(func() { s.tryTakeOver(ctx, v) })
		}
		trying.Wait()
	}
}

// nextTakeOver is how long the first of the devices that wait has to wait for its next attempt.
func (s *Site) nextTakeOver() (pause time.Duration, any bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Clock.Now()
	for _, v := range s.volumes {
		if w := v.waiting; w != nil && (!any || w.due.Sub(now) < pause) {
			pause, any = w.due.Sub(now), true
		}
	}
	return pause, any
}

// dueTakeOvers are the volumes whose devices' next attempts are due.
func (s *Site) dueTakeOvers() (due []*volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Clock.Now()
	for _, v := range s.volumes {
		if w := v.waiting; w != nil && !w.due.After(now) {
			due = append(due, v)
		}
	}
	return due
}

// tryTakeOver is an attempt to serve a device that waits. What it fails with is told in the
// log when that is another reason than before.
func (s *Site) tryTakeOver(ctx context.Context, v *volume) {
	trying, cancel := context.WithTimeout(ctx, holder.DefaultCallTimeout)
	defer cancel()
	r := s.recordOf(v)
	unlock, err := s.locks.Lock(trying, volumeKey(r.ID), groups.Key(r.Group))
	if err != nil {
		s.putOffTakeOver(v, nil)
		return
	}
	defer unlock()
	s.mu.Lock()
	w, lost := v.waiting, v.lost
	s.mu.Unlock()
	if w == nil {
		return // served, or detached, meanwhile
	}
	config := w.config
	if lost == nil {
		var kept bool
		config, kept, err = s.keptDevice(trying, v)
		if err == nil && !kept {
			s.setWaiting(v, nil)
			s.cfg.Log.Warn("the device that waited to be served is gone", "volume", r.ID)
			return
		}
	}
	if err == nil {
		err = s.takeAway(trying, v) // nobody is to wait for a device that does not come
	}
	if err == nil {
		err = s.resumeDevice(trying, v, config)
	}
	s.mu.Lock()
	served := v.waiting == nil
	s.mu.Unlock()
	if served && err != nil {
		s.cfg.Log.Warn("device is served, and keeps its size", "volume", r.ID, "error", err)
	}
	if served || ctx.Err() != nil {
		return
	}
	if s.putOffTakeOver(v, err) {
		s.cfg.Log.Error("device still cannot be taken over; it is tried again, and its I/O waits", "volume", r.ID, "error", err)
	}
}

// checkStarted keeps I/O waiting that would fail: that of a volume whose group is primary
// here and did not start. An operation that has yet to be finished is why, mostly: then
// what is read of the device would be kept, too, and the volume holds something else soon.
func (s *Site) checkStarted(v *volume) error {
	r := s.recordOf(v)
	eng, err := s.engineOf(r.ID)
	if err != nil {
		return err
	}
	st, err := s.groups.State(r.Group)
	switch {
	case err != nil:
		return nil
	case st.Pending != nil:
		return fmt.Errorf("a %s of group %s has yet to be finished on this site, the log says why it is not: %w", st.Pending.Kind, r.Group, group.ErrBusy)
	case st.Role == group.RolePrimary && eng.ReadOnly():
		return fmt.Errorf("group %s has not started on this site, the log says why: %w", r.Group, group.ErrBusy)
	}
	return nil
}

// putOffTakeOver sets when the next attempt is due, and says whether err, if there is one,
// is news.
func (s *Site) putOffTakeOver(v *volume, err error) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := v.waiting
	if w == nil {
		return false
	}
	w.pause = min(2*w.pause, maxTakeOverPause)
	w.due = s.cfg.Clock.Now().Add(w.pause)
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	news = err.Error() != w.err.Error()
	w.err = err
	return news
}
