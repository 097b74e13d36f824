package holder

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// call performs one request, with the descriptor that came with it, which it
// owns. With a reply to Attach it also returns the descriptor to send along.
func (h *Holder) call(ctx context.Context, c *connection, req request, given descriptor) (reply, descriptor, error) {
	var rep reply
	var err error
	if req.Op == opRestore {
		rep, err = h.restore(ctx, c, req, given)
		return rep, noDescriptor, err
	}
	given.close() // nothing else has use for one
	switch req.Op {
	case opAttach:
		return h.attach(ctx, c, req)
	case opAttachLoop:
		rep.Device, err = h.attachLoop(ctx, c, req.Volume)
	case opResize:
		rep.SizeBytes, err = h.resize(ctx, c, req.Volume)
	case opRelease:
		err = h.release(c, req.Volume)
	case opDetach:
		err = h.detachFor(ctx, c, req.Volume, req.Force)
	case opWithdraw:
		err = h.withdraw(ctx, c, req.Volume, req.Look)
	case opTrouble:
		h.setTrouble(c, req.Volume, req.Text)
	case opList:
		rep.Volumes = h.list()
	case opShutdown:
		if h.config.Keep {
			return rep, noDescriptor, fmt.Errorf("%w: this holder keeps its volumes for as long as its node runs", ErrInvalid)
		}
		h.shutdownOnce.Do(func() { close(h.shutdown) })
	}
	return rep, noDescriptor, err
}

// attach mounts the volume if need be and leases its descriptor to c.
func (h *Holder) attach(ctx context.Context, c *connection, req request) (reply, descriptor, error) {
	if err := h.refuseAway(ctx, req.Volume); err != nil {
		return reply{}, noDescriptor, err
	}
	v, err := h.leaseNewest(ctx, c, req)
	if err != nil {
		return reply{}, noDescriptor, err
	}
	wanted, granted := h.config.Transport, fuse.TransportDevice
	if req.Transport != "" {
		wanted = req.Transport
	}
	if req.Ring {
		granted = wanted
	}
	rep, conn, err := h.handOut(ctx, v, granted, req.Known)
	if err != nil {
		h.endLease(c, req.Volume)
		return reply{}, noDescriptor, err
	}
	rep.Wanted = wanted
	return rep, conn, nil
}

// refuseAway reports ErrLeased for a volume whose engine lives and has not come
// back to this holder. It comes before the lease, which that engine must find
// free. An engine that is dead at this moment cannot come back later.
func (h *Holder) refuseAway(ctx context.Context, id string) error {
	h.mu.Lock()
	v := h.volumes[id]
	unknown := v != nil && v.lessee == nil
	h.mu.Unlock()
	if !unknown || v.mounted() {
		return nil
	}
	// A descriptor may just be being taken back, of an engine that has died since.
	if err := v.acquire(ctx); err != nil {
		return err
	}
	defer v.unlock()
	if v.mounted() {
		return nil
	}
	if _, present, err := connectionAt(v.dir); err != nil || !present {
		return err
	}
	if v.alive(ctx) {
		return fmt.Errorf("%w: volume %s was attached before this holder started, and its engine has not come back", ErrLeased, id)
	}
	return nil
}

// lease does what needs a volume without another lessee than c by try, which
// returns the one that is in the way. A lessee whose process has just ended is waited for: its socket
// is closed, and only the goroutine that ends its leases has yet to notice.
func (h *Holder) lease(ctx context.Context, c *connection, try func() (*volume, *connection, error)) (*volume, error) {
	for {
		v, lessee, err := try()
		if lessee == nil || lessee == c || !lessee.hungUp() {
			return v, err
		}
		select {
		case <-lessee.ended:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// tryLease finds or adds the volume of req and makes c its lessee, unless there
// is one. An *outdatedError tells of a device that has to go before.
func (h *Holder) tryLease(c *connection, req request) (v *volume, lessee *connection, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v = h.volumes[req.Volume]
	switch {
	case h.ending:
		return nil, nil, errEnding
	case h.isRevoking(req.Volume):
		return nil, nil, errRevoking(req.Volume)
	case v == nil && len(h.volumes) >= MaxVolumes:
		return nil, nil, ErrFull
	case v == nil:
		v = h.newVolume(req.Volume, req.BlockBytes, req.ReadOnly)
		h.volumes[req.Volume] = v
	case v.lessee != nil:
		return nil, v.lessee, fmt.Errorf("%w: volume %s", ErrLeased, req.Volume)
	case v.outdated(req.Known):
		return nil, nil, &outdatedError{seen: Unserved{ID: v.id, Spell: v.spell}}
	case v.blockBytes != req.BlockBytes || v.readOnly != req.ReadOnly:
		return nil, nil, fmt.Errorf("%w: volume %s is attached with block size %d, read-only %t",
			ErrInvalid, v.id, v.blockBytes, v.readOnly)
	}
	v.begin(c)
	c.trouble = trouble{}
	h.announce()
	return v, nil, nil
}

// handOut prepares the descriptor of a leased volume for its lessee.
func (h *Holder) handOut(ctx context.Context, v *volume, transport fuse.Transport, known *string) (reply, descriptor, error) {
	rep, conn, err := v.handOut(known)
	if conn != noDescriptor || err != nil {
		return rep, conn, err
	}
	if err := v.acquire(ctx); err != nil {
		return reply{}, noDescriptor, err
	}
	defer v.unlock()
	if v.removed {
		return reply{}, noDescriptor, fmt.Errorf("%w: volume %s was detached meanwhile", ErrNotAttached, v.id)
	}
	rep, conn, err = v.handOut(known) // someone else may have mounted it meanwhile
	if conn != noDescriptor || err != nil {
		return rep, conn, err
	}
	if err := v.remount(ctx, transport); err != nil {
		if !v.mounted() {
			h.forget(v)
		}
		return reply{}, noDescriptor, err
	}
	rep, conn, err = v.handOut(nil) // nobody knows the new mount yet
	if conn == noDescriptor && err == nil {
		err = fmt.Errorf("mount volume %s: connection was aborted at once", v.id)
	}
	return rep, conn, err
}

// forget drops a volume that is not mounted. The caller has its token.
func (h *Holder) forget(v *volume) {
	v.removed = true
	h.mu.Lock()
	v.lessee = nil
	if h.volumes[v.id] == v {
		delete(h.volumes, v.id)
	}
	h.announce()
	h.mu.Unlock()
	h.touch()
}

// release takes the volume back from c, whose engine serves it no more. A holder that keeps
// its volumes does not while it ends, for it is about to close its descriptor: that of
// the engine has to go to the next one.
func (h *Holder) release(c *connection, id string) error {
	h.mu.Lock()
	v := h.volumes[id]
	leased := v != nil && v.lessee == c
	h.mu.Unlock()
	if !leased {
		return nil
	}
	h.giveUp(v)
	h.mu.Lock()
	defer h.mu.Unlock()
	if v.lessee != c {
		return nil // dropped meanwhile
	}
	if h.ending && h.config.Keep {
		return errEnding
	}
	v.end()
	h.announce()
	return nil
}

// giveUp comes when nobody serves v any more and before its lease ends. If no
// engine can take over, I/O fails from now on, which would wait in vain.
func (h *Holder) giveUp(v *volume) {
	if v.transport() != fuse.TransportRing || !v.connected() {
		return
	}
	h.config.Log.Error("device over io_uring has lost its engine, its I/O fails now", "volume", v.id)
	if err := abort(v.dir); err != nil {
		h.config.Log.Error("device over io_uring could not be made to fail, its I/O hangs until it is detached", "volume", v.id, "error", err)
	}
}

// endLease takes the volume back from c. It is no error if c does not have it.
func (h *Holder) endLease(c *connection, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.volumes[id]; v != nil && v.lessee == c {
		v.end()
		h.announce()
	}
}

// served returns the volume if c holds its lease.
func (h *Holder) served(c *connection, id string) (*volume, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.volumes[id]
	if v == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotAttached, id)
	}
	if v.lessee != c {
		return nil, fmt.Errorf("%w: %s", ErrNotServed, id)
	}
	return v, nil
}

func (h *Holder) attachLoop(ctx context.Context, c *connection, id string) (path string, err error) {
	v, err := h.served(c, id)
	if err != nil {
		return "", err
	}
	if err := v.acquire(ctx); err != nil {
		return "", err
	}
	found := make(chan string, 1)
	err = v.leaveBehind(ctx, func() error {
		path, err := v.attachLoop(ctx)
		found <- path
		h.mu.Lock()
		h.announce()
		h.mu.Unlock()
		return err
	})
	if err != nil {
		return "", err
	}
	return <-found, nil
}

func (h *Holder) resize(ctx context.Context, c *connection, id string) (sizeBytes int64, err error) {
	v, err := h.served(c, id)
	if err != nil {
		return 0, err
	}
	if err := v.acquire(ctx); err != nil {
		return 0, err
	}
	found := make(chan int64, 1)
	err = v.leaveBehind(ctx, func() error {
		size, err := v.resize()
		found <- size
		return err
	})
	if err != nil {
		return 0, err
	}
	return <-found, nil
}

// detachFor is detach for a client. Clients of a holder that keeps its volumes
// are engines of different volumes, and none may take another's away.
func (h *Holder) detachFor(ctx context.Context, c *connection, id string, force bool) error {
	_, err := h.lease(ctx, c, func() (*volume, *connection, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		v := h.volumes[id]
		if !h.config.Keep || v == nil || v.lessee == nil || v.lessee == c {
			return nil, nil, nil
		}
		return nil, v.lessee, fmt.Errorf("%w: volume %s", ErrLeased, id)
	})
	if err != nil {
		return err
	}
	return h.detach(ctx, id, force)
}

// detach takes the volume down: with the help of its engine if it is served,
// and otherwise, or with force, by aborting its connection.
func (h *Holder) detach(ctx context.Context, id string, force bool) error {
	h.mu.Lock()
	v := h.volumes[id]
	if v == nil {
		// A volume of an earlier holder may have left a mount.
		v = h.newVolume(id, 0, false)
	}
	// One that has ended just now serves nothing, though its lease has not ended yet.
	served := v.lessee != nil && !v.lessee.hungUp()
	h.mu.Unlock()
	if served && !force {
		return h.detachServed(ctx, v)
	}
	return h.detachUnserved(ctx, v, force)
}

// detachServed detaches while an engine answers.
func (h *Holder) detachServed(ctx context.Context, v *volume) error {
	if err := v.acquire(ctx); err != nil {
		return err
	}
	return v.leaveBehind(ctx, func() error {
		if v.removed {
			return nil
		}
		if err := v.release(ctx); err != nil {
			return err
		}
		return h.drop(v)
	})
}

// detachUnserved detaches without an engine. Nothing here should wait for one;
// what does all the same (the holder's own calls, left behind by a deadline, or
// somebody's last close that writes back) is freed by aborting the connection.
func (h *Holder) detachUnserved(ctx context.Context, v *volume, force bool) error {
	clear := v.clear
	if force {
		clear = func(ctx context.Context) error {
			number, _, err := connectionAt(v.dir)
			if err != nil {
				return err
			}
			return v.forceClear(ctx, number)
		}
	}
	attempt := func(ctx context.Context) error {
		if err := v.acquire(ctx); err != nil {
			return err
		}
		return v.leaveBehind(ctx, func() error {
			if v.removed {
				return nil
			}
			if err := clear(ctx); err != nil {
				return err
			}
			return h.drop(v)
		})
	}
	brief, cancel := context.WithTimeout(ctx, abortGrace)
	defer cancel()
	err := attempt(brief)
	if brief.Err() == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return err
	}
	if !force && !v.mounted() {
		return err // of an engine that this holder does not know
	}
	h.config.Log.Warn("detach waits for an engine, aborting", "volume", v.id)
	if err := abort(v.dir); err != nil {
		return err
	}
	return attempt(ctx)
}

// drop unmounts the volume and takes it off the list. The caller has its token.
func (h *Holder) drop(v *volume) error {
	if err := v.remove(); err != nil {
		return err
	}
	h.forget(v)
	return nil
}

func (h *Holder) list() []Volume {
	h.mu.Lock()
	var all []*volume
	for _, v := range h.volumes {
		all = append(all, v)
	}
	h.mu.Unlock()
	sort.Slice(all, func(i, j int) bool { return all[i].id < all[j].id })
	described := make([]Volume, 0, len(all))
	for _, v := range all {
		described = append(described, h.describe(v))
	}
	return described
}

// describe asks sysfs for the device: the volume may be locked by a call that
// waits for an engine.
func (h *Holder) describe(v *volume) Volume {
	v.mu.Lock()
	attachment, identity := v.rec.Attachment, v.rec.Identity
	away := v.conn == noDescriptor && v.rec.Volume != ""
	v.mu.Unlock()
	h.mu.Lock()
	d := Volume{Attachment: attachment, Identity: identity, ID: v.id, BlockBytes: v.blockBytes, ReadOnly: v.readOnly, Leased: v.lessee != nil}
	h.mu.Unlock()
	d.Transport, d.Away = v.transport(), away
	if device, err := v.find(); err == nil && device != nil {
		d.Device = device.Path()
	}
	return d
}
