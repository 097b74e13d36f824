package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// Attach provides the volume's block device on a node and returns its path
// there. Idempotent; groups.ErrInUse if it is attached elsewhere or with other
// options, groups.ErrAbsent if nothing of it ever arrived here. An engine on another node is stopped first, and this one starts
// only when that can write no more.
//
// It does not wait for an engine that has been given its node and has yet to start,
// unless there is reason to expect that it will not serve: the path is empty then.
// The attachment is durable, the fence holds, and the engine finds its orders when it
// answers; who wants the device waits for it on the node. ErrNoEngine, with the attachment
// durable, where it has not got so far within Config.EngineWait.
func (f *Fleet) Attach(ctx context.Context, id journal.VolumeID, node string, how control.Attach) (device string, err error) {
	unlock, err := f.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return "", err
	}
	defer unlock()
	v, err := f.volumeOf(id)
	if err != nil {
		return "", err
	}
	if err := f.wantAttached(ctx, v, Attachment{Node: node, Attach: how}); err != nil {
		return "", err
	}
	defer f.hold(v)() // an engine that serves it already is not upgraded meanwhile
	serves := false
	err = within(ctx, f.cfg.EngineWait, func(ctx context.Context) (err error) {
		serves, err = f.isGiven(ctx, v, node)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("attach %s to node %s: %w", members{f}.Title(id), node, err)
	}
	if !serves {
		return "", nil
	}
	return f.finishAttach(ctx, v, id, node)
}

// isGiven waits until the volume's engine answers on a node, or has been given that node and
// nothing is known that would keep it from serving there: serves is false then.
func (f *Fleet) isGiven(ctx context.Context, v *volume, node string) (serves bool, err error) {
	for {
		f.mu.Lock()
		client, at, placed, changed := v.client, v.node, v.placed, v.changed
		f.mu.Unlock()
		switch {
		case client != nil && at == node:
			return true, nil
		case client == nil && placed == node && f.mayFollow(v):
			return false, nil
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
			return false, ErrClosed
		case <-ctx.Done():
			_, err := f.connected(ctx, v)
			return false, errors.Join(ctx.Err(), err)
		}
	}
}

// mayFollow reports whether nothing is known that would keep an engine from serving
// its device as soon as it runs. Where something is, who attaches is to be told of it.
func (f *Fleet) mayFollow(v *volume) bool {
	st, err := f.groups.State(f.recordOf(v).Group)
	if err != nil || st.Role != group.RolePrimary || st.Pending != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return !v.withdrawn && !v.unserved && v.state.Reason == "" && v.trouble == nil
}

// finishAttach has the engine attach the device, and its group admit writes.
func (f *Fleet) finishAttach(ctx context.Context, v *volume, id journal.VolumeID, node string) (device string, err error) {
	state, err := f.reorder(ctx, v, nil)
	if err != nil {
		return "", err
	}
	name := f.recordOf(v).Group
	unlock, err := f.locks.Lock(ctx, groupKey(name))
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := f.groups.Refresh(ctx, name); err != nil {
		return "", fmt.Errorf("admit writes to %s: %w", members{f}.Title(id), err)
	}
	if state.Device == "" { // writes were not admitted, or the group was forking: both is over
		if state, err = f.reorder(ctx, v, nil); err != nil {
			return "", err
		}
	}
	switch {
	case !f.recordOf(v).Orders.Writable:
		return "", fmt.Errorf("attach %s: its group does not admit writes: %w", members{f}.Title(id), group.ErrRole)
	case state.Device == "":
		return "", fmt.Errorf("attach %s to node %s: %s", members{f}.Title(id), node, state.Error)
	}
	return state.Device, nil
}

// wantAttached writes down where the volume is to be attached. The group's key
// is held: nothing is attached while its members fork.
func (f *Fleet) wantAttached(ctx context.Context, v *volume, want Attachment) error {
	r := f.recordOf(v)
	unlock, err := f.locks.Lock(ctx, groupKey(r.Group))
	if err != nil {
		return err
	}
	defer unlock()
	if st, err := f.groups.State(r.Group); err != nil || st.Role != group.RolePrimary {
		return fmt.Errorf("attach %s: site %s is not primary for group %s: fail over first: %w", r.title(), f.cfg.Site, r.Group, group.ErrRole)
	}
	if f.isAbsent(v) {
		return fmt.Errorf("attach %s: %w: the site that was the primary has it", r.title(), groups.ErrAbsent)
	}
	if a := r.Attach; a != nil {
		if a.Node != want.Node || a.Attach != want.Attach {
			return fmt.Errorf("%s is attached to node %s: %w", r.title(), a.Node, groups.ErrInUse)
		}
		if !a.Leaving {
			return nil
		}
	}
	if err := f.change(ctx, v, func(r *record) { r.Attach = &want }); err != nil {
		return err
	}
	f.mu.Lock()
	v.abandoned = false // by a detach that was given up: an engine that is being stopped has a successor
	f.mu.Unlock()
	f.expectNothing(v)
	f.pokeGroup(r.Group)
	return nil
}

// Detach removes the volume's block device once everything written to it is
// durable. groups.ErrInUse while it is open. No error if it is not attached. An
// engine that does not answer is stopped, which waits for the fence.
func (f *Fleet) Detach(ctx context.Context, id journal.VolumeID) error {
	unlock, err := f.locks.Lock(ctx, volumeKey(id))
	if err != nil {
		return err
	}
	defer unlock()
	v, err := f.volumeOf(id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	a := f.recordOf(v).Attach
	if a == nil {
		return nil
	}
	leaving := *a
	leaving.Leaving = true
	if err := f.change(ctx, v, func(r *record) { r.Attach = &leaving }); err != nil {
		return err
	}
	_, err = f.reorder(ctx, v, nil)
	switch {
	case errors.Is(err, control.ErrDeviceInUse):
		staying := *a
		staying.Leaving = false
		err = fmt.Errorf("detach %s from node %s: %w: %w", members{f}.Title(id), a.Node, groups.ErrInUse, err)
		undo := f.change(ctx, v, func(r *record) { r.Attach = &staying })
		if undo == nil {
			_, undo = f.reorder(ctx, v, nil)
		}
		return errors.Join(err, undo)
	case err != nil:
		// Whatever it still does, the next engine waits for the fence.
		f.cfg.Log.Warn("engine does not confirm that its device is detached: it is stopped", "volume", id, "node", a.Node, "error", err)
		if err := f.abandon(ctx, v); err != nil {
			return err
		}
	}
	if err := f.change(ctx, v, func(r *record) { r.Attach = nil }); err != nil {
		return err
	}
	f.mu.Lock()
	v.abandoned = false
	f.mu.Unlock()
	f.pokeGroup(f.recordOf(v).Group)
	return nil
}

// abandon stops an engine that does not answer, and waits until it can write no
// more. None runs until abandoned is taken back.
func (f *Fleet) abandon(ctx context.Context, v *volume) error {
	f.mu.Lock()
	v.abandoned = true
	f.mu.Unlock()
	v.poke()
	return f.stopped(ctx, v)
}

// Device returns the path of an attached volume's block device on its node.
func (f *Fleet) Device(id journal.VolumeID) (device, node string, err error) {
	v, err := f.volumeOf(id)
	if err != nil {
		return "", "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v.record.Attach == nil || v.state.Device == "" {
		return "", "", fmt.Errorf("volume %s is not attached: %w", id, ErrNotFound)
	}
	return v.state.Device, v.record.Attach.Node, nil
}
