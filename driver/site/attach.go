package site

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// attachment is a volume's block device while this process serves it.
type attachment struct {
	config holder.AttachConfig
	device string // /dev/loopN

	session fuse.Session
	stop    context.CancelFunc
	joined  sync.WaitGroup
	// ended is the outcome of Serve, valid after joined.
	ended error
}

// Attach provides the volume's block device on this machine and returns its
// path. Idempotent; groups.ErrInUse if it is attached with other options.
func (s *Site) Attach(ctx context.Context, id journal.VolumeID, blockBytes int, readOnly bool) (device string, err error) {
	v, err := s.volumeOf(id)
	if err != nil {
		return "", err
	}
	// The group's key as well: nothing is attached while its members fork.
	unlock, err := s.locks.Lock(ctx, volumeKey(id), groups.Key(s.recordOf(v).Group))
	if err != nil {
		return "", err
	}
	defer unlock()
	name := s.recordOf(v).Group
	if st, err := s.groups.State(name); err != nil || st.Role != group.RolePrimary {
		return "", fmt.Errorf("attach volume %s: site %s is not primary for group %s: fail over first: %w", id, s.cfg.Name, name, group.ErrRole)
	}
	if s.recordOf(v).Retired {
		return "", fmt.Errorf("attach volume %s: it was deleted, and is kept for its points in group %s: %w", id, name, ErrNotFound)
	}
	if s.isAbsent(id) {
		return "", fmt.Errorf("attach: %w", absentErr(id))
	}
	config := holder.AttachConfig{Volume: id.String(), BlockBytes: blockBytes, ReadOnly: readOnly}
	if a := v.attachment; a != nil {
		if a.config != config {
			return "", fmt.Errorf("volume %s is attached with other options: %w", id, groups.ErrInUse)
		}
		return a.device, nil
	}
	if s.cfg.Holder == nil {
		return "", ErrNoHolder
	}
	if err := s.checkStarted(v); err != nil {
		return "", fmt.Errorf("attach volume %s: %w", id, err)
	}
	return s.attach(ctx, v, config)
}

// attach serves the volume's file system and then attaches the loop device,
// which opens it. A device that must not be served again is taken away before. The
// volume's key must be held.
func (s *Site) attach(ctx context.Context, v *volume, config holder.AttachConfig) (device string, err error) {
	if s.cfg.Holder == nil {
		return "", ErrNoHolder
	}
	eng, err := s.engineOf(s.recordOf(v).ID)
	if err != nil {
		return "", err
	}
	if err := eng.Store().Err(); errors.Is(err, journal.ErrTailLost) {
		return "", fmt.Errorf("attach volume %s: reopen it first: %w", config.Volume, err)
	}
	if err := s.takeAway(ctx, v); err != nil {
		return "", err
	}
	wish := config // without the transport: it is the site's, and no option of the attachment
	wish.Transport = s.cfg.Transport
	session, err := s.cfg.Holder.Attach(ctx, wish)
	if err != nil {
		return "", err
	}
	serving, stop := context.WithCancel(context.Background())
	a := &attachment{config: config, session: session, stop: stop}
	a.joined.Go(func() {
		a.ended = fuse.Serve(serving, session, eng, fuse.Options{Log: s.cfg.Log})
		if a.ended != nil && !errors.Is(a.ended, fuse.ErrUnmounted) {
			s.cfg.Log.Error("frontend ended", "volume", config.Volume, "error", a.ended)
		}
	})
	s.setAttachment(v, a) // from here on tools change nothing
	if err = s.settleExport(ctx, v); err == nil {
		device, err = s.cfg.Holder.AttachLoop(ctx, config.Volume)
	}
	if err == nil {
		err = s.forgetLost(v, eng.Store())
	}
	if err != nil {
		return "", errors.Join(err, s.releaseDevice(v))
	}
	s.mu.Lock()
	a.device, v.waiting = device, nil
	s.mu.Unlock()
	return device, nil
}

func (s *Site) setAttachment(v *volume, a *attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.attachment = a
}

// Detach removes the volume's block device once everything written to it is
// durable. groups.ErrInUse while it is mounted or open. No error if it is not
// attached.
func (s *Site) Detach(ctx context.Context, id journal.VolumeID) error {
	unlock, err := s.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	v, err := s.volumeOf(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	s.letDeviceGo(v)
	a := v.attachment
	if a == nil {
		return s.detachKept(ctx, v)
	}
	// Serve goes on until the holder has let the device go: the kernel
	// flushes it.
	if err := s.cfg.Holder.Detach(ctx, a.config.Volume, false); errors.Is(err, holder.ErrBusy) {
		return fmt.Errorf("detach volume %s: %s is %s: %w", id, a.device, usedBy(a.device), groups.ErrInUse)
	} else if err != nil {
		return err
	}
	a.stop()
	a.joined.Wait()
	s.setAttachment(v, nil)
	err = errors.Join(s.forgetLost(v, nil), a.session.Conn.Close())
	if eng, closed := s.engineOf(id); closed == nil {
		err = errors.Join(eng.Flush(ctx), err)
	}
	return err
}

// detachKept removes the device of a volume that is not served, if the
// holder keeps one. What waits in the kernel for an engine is lost with it.
func (s *Site) detachKept(ctx context.Context, v *volume) error {
	err := s.takeAway(ctx, v)
	if err == nil {
		err = s.forgetLost(v, nil)
	}
	if err != nil {
		return err
	}
	config, kept, err := s.keptDevice(ctx, v)
	if err != nil || !kept {
		if err == nil {
			s.setWaiting(v, nil)
		}
		return err
	}
	if err := s.cfg.Holder.Detach(ctx, config.Volume, false); errors.Is(err, holder.ErrBusy) {
		return fmt.Errorf("detach volume %s: its device is still open or mounted: %w", config.Volume, groups.ErrInUse)
	} else if err != nil {
		return err
	}
	s.setWaiting(v, nil)
	return nil
}

// releaseDevice stops serving but leaves the device with the holder; I/O then
// waits for the next engine.
func (s *Site) releaseDevice(v *volume) error {
	s.letDeviceGo(v)
	a := v.attachment
	if a == nil {
		return nil
	}
	a.stop()
	a.joined.Wait()
	s.setAttachment(v, nil)
	err := a.session.Conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), holder.DefaultCallTimeout)
	defer cancel()
	return errors.Join(err, s.cfg.Holder.Release(ctx, a.config.Volume))
}

// Device returns the path of an attached volume's block device.
func (s *Site) Device(id journal.VolumeID) (string, error) {
	v, err := s.volumeOf(id)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.attachment != nil && v.attachment.device != "" {
		return v.attachment.device, nil
	}
	if err := v.deviceErr(); err != nil {
		return "", fmt.Errorf("volume %s: %w: %w", id, err, ErrNotFound)
	}
	return "", fmt.Errorf("volume %s is not attached: %w", id, ErrNotFound)
}

func volumeKey(id journal.VolumeID) string { return "volume/" + id.String() }
