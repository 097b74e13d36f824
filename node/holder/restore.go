package holder

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// restore makes c the lessee of a volume again with the descriptor that an
// earlier holder, or this one, handed it. What the client says counts only
// where it is what was recorded, and the descriptor only if the kernel says that
// it is of the volume's mount.
func (h *Holder) restore(ctx context.Context, c *connection, req request, given descriptor) (reply, error) {
	rep, err := h.tryRestore(ctx, c, req, given)
	if err != nil {
		h.counters.refused.Add(1)
		h.config.Log.Warn("descriptor that an engine brought back is refused", "volume", req.Volume, "error", err)
		return reply{}, err
	}
	h.counters.restores.Add(1)
	h.config.Log.Info("engine brought its descriptor back", "volume", req.Volume, "device", rep.Device)
	return rep, nil
}

func (h *Holder) tryRestore(ctx context.Context, c *connection, req request, given descriptor) (reply, error) {
	if given == noDescriptor {
		return reply{}, fmt.Errorf("%w: restore without a descriptor", ErrInvalid)
	}
	v, err := h.lease(ctx, c, func() (*volume, *connection, error) { return h.tryLeaseAgain(c, req) })
	if err == nil {
		err = v.acquire(ctx)
	}
	if err != nil {
		given.close()
		if v != nil {
			h.endLease(c, req.Volume)
		}
		return reply{}, err
	}
	certain, err := v.identify(given)
	offered := make(chan descriptor, 1)
	offered <- given
	if err == nil {
		// Kept where it can be left behind: the kernel may have to ask the
		// engine, and one that does not answer must not hold the holder.
		err = v.leaveBehind(ctx, func() error { return v.takeBack(req, certain, offered) })
	} else {
		v.unlock()
	}
	if err != nil {
		withdraw(offered)
		h.endLease(c, req.Volume)
		return reply{}, err
	}
	rep := reply{}
	if d, err := v.find(); err == nil && d != nil {
		rep.Device = d.Path()
	}
	return rep, nil
}

// tryLeaseAgain makes c the lessee of the volume of req if the newest lease was
// its, unless there is a lessee.
func (h *Holder) tryLeaseAgain(c *connection, req request) (v *volume, lessee *connection, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v = h.volumes[req.Volume]
	switch {
	case h.ending:
		return nil, nil, errEnding
	case h.isRevoking(req.Volume):
		return nil, nil, errRevoking(req.Volume)
	case v == nil:
		return nil, nil, fmt.Errorf("%w: %s", ErrNotAttached, req.Volume)
	case v.lessee != nil:
		return nil, v.lessee, fmt.Errorf("%w: volume %s", ErrLeased, req.Volume)
	}
	if err := v.matches(req); err != nil {
		return nil, nil, err
	}
	v.begin(c)
	return v, nil, nil
}

// matches compares what a client says of its volume with what is recorded.
func (v *volume) matches(req request) error {
	v.mu.Lock()
	rec := v.rec
	v.mu.Unlock()
	switch {
	case rec.Lease != req.Lease:
		return fmt.Errorf("%w: volume %s is at lease %d, this one is %d", ErrSuperseded, v.id, rec.Lease, req.Lease)
	case rec.Init != *req.Init || rec.BlockBytes != req.BlockBytes || rec.ReadOnly != req.ReadOnly:
		return fmt.Errorf("%w: volume %s is attached with block size %d, read-only %t, %+v",
			ErrInvalid, v.id, rec.BlockBytes, rec.ReadOnly, rec.Init)
	}
	return nil
}

// withdraw closes what takeBack has not taken. It may wait for an engine that is dead,
// which ends when nobody keeps the connection open any more.
func withdraw(offered <-chan descriptor) {
	select {
	case given := <-offered:
		given.close()
	default:
	}
}

// takeBack keeps the descriptor that is offered, if it is the volume's, which certain
// says or the engine helps to find out. It takes it from the channel when it does not
// have to wait any more; until then it can be withdrawn. The
// caller has the volume's token and its lease.
func (v *volume) takeBack(req request, certain bool, offered <-chan descriptor) error {
	var name string
	if !certain {
		made, forget, err := v.makeName()
		if err != nil {
			return err
		}
		defer forget()
		name = made
	}
	var given descriptor
	select {
	case given = <-offered:
	default:
		return fmt.Errorf("%w: the engine was not waited for", ErrClosed)
	}
	var err error
	if !certain {
		err = v.reaches(given, name)
	}
	if err == nil {
		err = v.matches(req) // it may have been attached anew before the token was had
	}
	if err != nil {
		given.close()
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.conn != noDescriptor {
		given.close() // this holder has it
		return nil
	}
	v.conn = given
	return nil
}

// identify reports ErrForeign for a descriptor that cannot be of the file system
// that is mounted for the volume, and ErrNotAttached if there is none any more.
// It is certain to be of it if the kernel tells a descriptor's connection; else
// see makeName. Nobody is waited for.
func (v *volume) identify(given descriptor) (certain bool, err error) {
	number, mounted, err := connectionAt(v.dir)
	switch {
	case err != nil:
		return false, err
	case v.removed || !mounted || number != v.rec.Connection:
		return false, fmt.Errorf("%w: the file system of volume %s is not mounted any more", ErrNotAttached, v.id)
	case !given.isFuse():
		return false, fmt.Errorf("%w: it is not of /dev/fuse", ErrForeign)
	}
	found, known, err := given.connection()
	switch {
	case err != nil:
		return false, err
	case known && found != number:
		return false, fmt.Errorf("%w: it is of connection %d, volume %s has %d", ErrForeign, found, v.id, number)
	case known && !given.connected():
		return false, fmt.Errorf("%w: the connection of volume %s was aborted", ErrNotAttached, v.id)
	case !known && !given.connected():
		return false, fmt.Errorf("%w: nothing is mounted with it", ErrForeign)
	}
	return known, nil
}

// makeName and reaches verify a descriptor where the kernel does not tell its
// connection. The mount is asked for a file by a name that nobody else knows, which
// puts the name into the name cache of its connection for as long as the file is open;
// then the kernel is asked, through the descriptor, to expire that name, which it can
// do only if the name is in the cache of the descriptor's connection. The mount is
// not disturbed. It needs its engine, which is the one that gave the descriptor.
func (v *volume) makeName() (name string, forget func(), err error) {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails, crypto/rand
	name = fuse.FileName + "-probe-" + hex.EncodeToString(raw)
	file, err := unix.Open(filepath.Join(v.dir, name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("probe file system of volume %s: %w", v.id, os.NewSyscallError("open", err))
	}
	return name, func() { _ = unix.Close(file) }, nil // opened as a path only
}

// reaches reports ErrForeign unless the name is in the cache of the descriptor's
// connection.
func (v *volume) reaches(given descriptor, name string) error {
	err := fuse.ExpireName(int(given), name)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: it does not reach the mount of volume %s", ErrForeign, v.id)
	}
	return err
}
