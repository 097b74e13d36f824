package site

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/node/holder"
)

// ReopenVolume closes the store of a volume that has stopped, or did not open,
// and opens it again, which recovers it: what had not been flushed may be gone,
// as after a power loss. Its block device stays. I/O on it waits meanwhile and
// goes on afterwards; if the store does not open it waits on, until a later
// call succeeds or the volume is detached. Where acknowledged writes may be lost
// (journal.ErrTailLost) the device is gone for its users, who get errors, and the volume
// gets a new one. The other members serve on; the
// group takes no checkpoints and replicates nothing for that long. done is
// false if the volume was well, and nothing was changed. groups.ErrInUse while a view
// shows the volume.
func (s *Site) ReopenVolume(ctx context.Context, id journal.VolumeID) (done bool, err error) {
	v, err := s.volumeOf(id)
	if err != nil {
		return false, err
	}
	name := s.recordOf(v).Group
	release, err := s.groups.Pause(ctx, name) // nobody appends to a replica's store
	if err != nil {
		return false, err
	}
	defer release()
	unlock, err := s.locks.Lock(ctx, volumeKey(id), groups.Key(name))
	if err != nil {
		return false, err
	}
	defer unlock()
	described, err := s.Volume(id)
	switch {
	case err != nil:
		return false, err
	case described.StoreDir == "":
		return false, fmt.Errorf("volume %s has no store on this site yet: %w", id, ErrNotFound)
	case described.Err == nil && described.Open:
		return false, nil
	}
	return true, s.reopen(ctx, v, name)
}

// reopen is ReopenVolume with the keys of the volume and its group held.
func (s *Site) reopen(ctx context.Context, v *volume, name string) error {
	st, err := s.groups.State(name)
	if err != nil && !errors.Is(err, group.ErrNotFound) {
		return err
	}
	id := s.recordOf(v).ID
	member := slices.Contains(st.Members, id)
	if member { // its coordinator and its sender use the store
		s.groups.Stop(name)
	}
	config, attached, err := s.replaceStore(ctx, v, st.Settings, nil)
	defer s.setKept(v, false)
	// The group starts whatever became of this member, and before I/O goes on:
	// until then the member refuses changes.
	if member {
		err = errors.Join(err, s.groups.Start(ctx, name))
	}
	if attached && (err == nil || errors.Is(err, groups.ErrInUse)) {
		err = errors.Join(err, s.resumeDevice(ctx, v, config))
	}
	if attached && err != nil {
		s.noteUnserved(v, config, err)
	}
	if err != nil {
		return fmt.Errorf("reopen volume %s: %w", id, err)
	}
	s.cfg.Log.Info("volume reopened", "volume", id, "group", name)
	return nil
}

// replaceStore closes a volume's store, makes its record name another one, if
// next is given, and opens the store that the record names. A device stays with
// the holder, and its I/O waits for resumeDevice. Nobody may use the store: the
// group must be stopped or be a replica whose streams do not append, and the
// volume's and the group's key must be held. groups.ErrInUse while a view shows it.
// Forks that need the store are closed meanwhile, or given up where another one takes
// its place.
func (s *Site) replaceStore(ctx context.Context, v *volume, settings group.Settings, next *record) (config holder.AttachConfig, attached bool, err error) {
	id := s.recordOf(v).ID
	if err := s.checkUnviewed(id); err != nil {
		return config, false, err
	}
	config, attached, err = s.keptDevice(ctx, v)
	if err != nil {
		return config, false, err
	}
	s.setKept(v, attached) // until the caller has resumed it, or noted that it waits
	reopenForks, err := s.releaseFrom(ctx, id, next != nil)
	defer reopenForks()
	if err != nil {
		return config, attached, err
	}
	if err := s.releaseDevice(v); err != nil {
		s.cfg.Log.Warn("releasing a device failed", "volume", id, "error", err)
	}
	if err := s.closeStore(v); errors.Is(err, groups.ErrInUse) {
		return config, attached, err // a view was opened meanwhile
	} else if err != nil {
		s.cfg.Log.Warn("closing a store failed", "volume", id, "error", err)
	}
	if next != nil {
		err = s.setRecord(id, *next)
	}
	return config, attached, errors.Join(err, s.openStore(v, settings))
}

// keptDevice returns how a volume is attached: served by this process, kept by the
// holder because it could not be, or lost, and then taken away.
func (s *Site) keptDevice(ctx context.Context, v *volume) (config holder.AttachConfig, attached bool, err error) {
	s.mu.Lock()
	a, lost, volume := v.attachment, v.lost, v.record.ID
	s.mu.Unlock()
	if a != nil {
		return a.config, true, nil
	}
	if lost != nil && lost.BlockBytes != 0 {
		return lost.config(volume), true, nil
	}
	if s.cfg.Holder == nil {
		return config, false, nil
	}
	kept, err := s.cfg.Holder.List(ctx)
	if err != nil {
		return config, false, err
	}
	for _, k := range kept {
		if k.ID == volume.String() {
			return holder.AttachConfig{Volume: k.ID, BlockBytes: k.BlockBytes, ReadOnly: k.ReadOnly}, true, nil
		}
	}
	return config, false, nil
}

// resumeDevice is takeOver, and makes the device as large as the volume is now.
func (s *Site) resumeDevice(ctx context.Context, v *volume, config holder.AttachConfig) error {
	if err := s.takeOver(ctx, v, config); err != nil {
		return err
	}
	if _, err := s.cfg.Holder.Resize(ctx, config.Volume); err != nil {
		return fmt.Errorf("make the device of volume %s as large as the volume: %w", config.Volume, err)
	}
	return nil
}

// takeOver serves a device that the holder keeps. One that was lost is taken away, also
// if the store is not open, and replaced. While the volume's group has not started the
// device waits. The volume's key must be held.
func (s *Site) takeOver(ctx context.Context, v *volume, config holder.AttachConfig) error {
	s.mu.Lock()
	lost := v.lost != nil
	s.mu.Unlock()
	err := s.takeAway(ctx, v)
	var device string
	if err == nil {
		err = s.checkStarted(v)
	}
	if err == nil {
		device, err = s.attach(ctx, v, config)
	}
	if err != nil {
		return fmt.Errorf("take over the device of volume %s, whose I/O waits: %w", config.Volume, err)
	}
	if lost {
		s.cfg.Log.Warn("the volume has a new device: who used the one that was taken away has to unmount and stage again", "volume", config.Volume, "device", device)
	} else {
		s.cfg.Log.Info("device taken over", "volume", config.Volume, "device", device)
	}
	return nil
}
