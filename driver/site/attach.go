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
	config := holder.AttachConfig{Volume: id.String(), BlockBytes: blockBytes, ReadOnly: readOnly}
	if a := v.attachment; a != nil {
		if a.config != config {
			return "", fmt.Errorf("volume %s is attached with other options: %w", id, groups.ErrInUse)
		}
		return a.device, nil
	}
	return s.attach(ctx, v, config)
}

// attach serves the volume's file system and then attaches the loop device,
// which opens it. The volume's key must be held.
func (s *Site) attach(ctx context.Context, v *volume, config holder.AttachConfig) (device string, err error) {
	if s.cfg.Holder == nil {
		return "", ErrNoHolder
	}
	eng, err := s.engineOf(s.recordOf(v).ID)
	if err != nil {
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
	s.setAttachment(v, a)
	device, err = s.cfg.Holder.AttachLoop(ctx, config.Volume)
	if err != nil {
		return "", errors.Join(err, s.releaseDevice(v))
	}
	s.mu.Lock()
	a.device = device
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
	if eng, err := s.engineOf(id); err == nil {
		err = eng.Flush(ctx)
		return errors.Join(err, a.session.Conn.Close())
	}
	return a.session.Conn.Close()
}

// detachKept removes the device of a volume whose store did not open, if the
// holder keeps one. What waits in the kernel for an engine is lost with it.
func (s *Site) detachKept(ctx context.Context, v *volume) error {
	config, kept, err := s.keptDevice(ctx, v)
	if err != nil || !kept {
		return err
	}
	if err := s.cfg.Holder.Detach(ctx, config.Volume, false); errors.Is(err, holder.ErrBusy) {
		return fmt.Errorf("detach volume %s: its device is still open or mounted: %w", config.Volume, groups.ErrInUse)
	} else if err != nil {
		return err
	}
	return nil
}

// releaseDevice stops serving but leaves the device with the holder; I/O then
// waits for the next engine.
func (s *Site) releaseDevice(v *volume) error {
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

// resumeAttachments takes over the devices that the holder kept while no
// engine ran; I/O on them has been waiting since. Those over io_uring have failed;
// their next attach makes new ones. Only devices of volumes that are wanted are looked at.
func (s *Site) resumeAttachments(ctx context.Context, wanted func(journal.VolumeID) bool) error {
	if s.cfg.Holder == nil {
		return nil
	}
	kept, err := s.cfg.Holder.List(ctx)
	if err != nil {
		return err
	}
	var resuming sync.WaitGroup
	for _, k := range kept {
		id, err := journal.ParseVolumeID(k.ID)
		if err != nil {
			s.cfg.Log.Warn("holder keeps a device that is not this site's", "id", k.ID)
			continue
		}
		if !wanted(id) {
			continue
		}
		v, err := s.volumeOf(id)
		if err != nil {
			s.cfg.Log.Warn("holder keeps a device of an unknown volume", "volume", id)
			continue
		}
		if k.Transport == fuse.TransportRing {
			// It failed when its engine ended.
			s.cfg.Log.Error("device over io_uring ended with its engine: what is mounted from it must be unmounted, and staged again", "volume", id, "device", k.Device)
			continue
		}
		resuming.Go(func() {
			if _, err := s.attach(ctx, v, holder.AttachConfig{Volume: k.ID, BlockBytes: k.BlockBytes, ReadOnly: k.ReadOnly}); err != nil {
				s.cfg.Log.Error("device could not be taken over; its I/O waits", "volume", id, "error", err)
				return
			}
			s.cfg.Log.Info("device taken over", "volume", id, "device", k.Device)
		})
	}
	resuming.Wait()
	return nil
}

// Device returns the path of an attached volume's block device.
func (s *Site) Device(id journal.VolumeID) (string, error) {
	v, err := s.volumeOf(id)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.attachment == nil || v.attachment.device == "" {
		return "", fmt.Errorf("volume %s is not attached: %w", id, ErrNotFound)
	}
	return v.attachment.device, nil
}

func volumeKey(id journal.VolumeID) string { return "volume/" + id.String() }
