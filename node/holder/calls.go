package holder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
)

// call performs one request. With a reply to Attach it also returns the
// descriptor to send along.
func (s *server) call(ctx context.Context, c *connection, req request) (reply, *os.File, error) {
	var rep reply
	var err error
	switch req.Op {
	case opAttach:
		return s.attach(ctx, c, req)
	case opAttachLoop:
		rep.Device, err = s.attachLoop(ctx, c, req.Volume)
	case opResize:
		rep.SizeBytes, err = s.resize(ctx, c, req.Volume)
	case opRelease:
		s.endLease(c, req.Volume)
	case opDetach:
		err = s.detach(ctx, req.Volume, req.Force)
	case opList:
		rep.Volumes = s.list()
	case opShutdown:
		s.shutdownOnce.Do(func() { close(s.shutdown) })
	}
	return rep, nil, err
}

// attach mounts the volume if need be and leases its descriptor to c.
func (s *server) attach(ctx context.Context, c *connection, req request) (reply, *os.File, error) {
	v, err := s.lease(ctx, c, req)
	if err != nil {
		return reply{}, nil, err
	}
	rep, conn, err := s.handOut(ctx, v)
	if err != nil {
		s.endLease(c, req.Volume)
		return reply{}, nil, err
	}
	return rep, conn, nil
}

// lease makes c the lessee of the volume of req. A lessee whose process has
// just ended is waited for: its socket is closed, and only the goroutine that
// ends its leases has yet to notice.
func (s *server) lease(ctx context.Context, c *connection, req request) (*volume, error) {
	for {
		v, lessee, err := s.tryLease(c, req)
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
// is one.
func (s *server) tryLease(c *connection, req request) (v *volume, lessee *connection, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v = s.volumes[req.Volume]
	switch {
	case v == nil && len(s.volumes) >= MaxVolumes:
		return nil, nil, ErrFull
	case v == nil:
		v = newVolume(req.Volume, filepath.Join(s.config.Dir, req.Volume), req.BlockBytes, req.ReadOnly)
		s.volumes[req.Volume] = v
	case v.lessee != nil:
		return nil, v.lessee, fmt.Errorf("%w: volume %s", ErrLeased, req.Volume)
	case v.blockBytes != req.BlockBytes || v.readOnly != req.ReadOnly:
		return nil, nil, fmt.Errorf("%w: volume %s is attached with block size %d, read-only %t",
			ErrInvalid, v.id, v.blockBytes, v.readOnly)
	}
	v.lessee = c
	return v, nil, nil
}

// handOut prepares the descriptor of a leased volume for its lessee.
func (s *server) handOut(ctx context.Context, v *volume) (reply, *os.File, error) {
	rep, conn, err := v.handOut()
	if conn != nil || err != nil {
		return rep, conn, err
	}
	if err := v.acquire(ctx); err != nil {
		return reply{}, nil, err
	}
	defer v.unlock()
	if v.removed {
		return reply{}, nil, fmt.Errorf("%w: volume %s was detached meanwhile", ErrNotAttached, v.id)
	}
	rep, conn, err = v.handOut() // someone else may have mounted it meanwhile
	if conn != nil || err != nil {
		return rep, conn, err
	}
	if err := v.remount(ctx); err != nil {
		if !v.mounted() {
			s.forget(v)
		}
		return reply{}, nil, err
	}
	rep, conn, err = v.handOut()
	if conn == nil && err == nil {
		err = fmt.Errorf("mount volume %s: connection was aborted at once", v.id)
	}
	return rep, conn, err
}

// forget drops a volume that is not mounted. The caller has its token.
func (s *server) forget(v *volume) {
	v.removed = true
	s.mu.Lock()
	v.lessee = nil
	delete(s.volumes, v.id)
	s.mu.Unlock()
	s.touch()
}

// endLease takes the volume back from c. It is no error if c does not have it.
func (s *server) endLease(c *connection, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.volumes[id]; v != nil && v.lessee == c {
		v.lessee = nil
	}
}

// served returns the volume if c holds its lease.
func (s *server) served(c *connection, id string) (*volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volumes[id]
	if v == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotAttached, id)
	}
	if v.lessee != c {
		return nil, fmt.Errorf("%w: %s", ErrNotServed, id)
	}
	return v, nil
}

func (s *server) attachLoop(ctx context.Context, c *connection, id string) (path string, err error) {
	v, err := s.served(c, id)
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
		return err
	})
	if err != nil {
		return "", err
	}
	return <-found, nil
}

func (s *server) resize(ctx context.Context, c *connection, id string) (sizeBytes int64, err error) {
	v, err := s.served(c, id)
	if err != nil {
		return 0, err
	}
	if err := v.acquire(ctx); err != nil {
		return 0, err
	}
	found := make(chan int64, 1)
	err = v.leaveBehind(ctx, func() error {
		if v.device == nil {
			return fmt.Errorf("%w: %s has no block device", ErrNotAttached, id)
		}
		size, err := v.device.Resize()
		found <- size
		return err
	})
	if err != nil {
		return 0, err
	}
	return <-found, nil
}

// detach takes the volume down: with the help of its engine if it is served,
// and otherwise, or with force, by aborting its connection.
func (s *server) detach(ctx context.Context, id string, force bool) error {
	s.mu.Lock()
	v := s.volumes[id]
	if v == nil {
		// A volume of an earlier holder may have left a mount.
		v = newVolume(id, filepath.Join(s.config.Dir, id), 0, false)
	}
	served := v.lessee != nil
	s.mu.Unlock()
	if served && !force {
		return s.detachServed(ctx, v)
	}
	return s.detachUnserved(ctx, v, force)
}

// detachServed detaches while an engine answers.
func (s *server) detachServed(ctx context.Context, v *volume) error {
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
		return s.drop(v)
	})
}

// detachUnserved detaches without an engine. Nothing here should wait for one;
// what does all the same (the holder's own calls, left behind by a deadline, or
// somebody's last close that writes back) is freed by aborting the connection.
func (s *server) detachUnserved(ctx context.Context, v *volume, force bool) error {
	clear := v.clear
	if force {
		clear = v.forceClear
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
			return s.drop(v)
		})
	}
	brief, cancel := context.WithTimeout(ctx, abortGrace)
	defer cancel()
	err := attempt(brief)
	if brief.Err() == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return err
	}
	s.config.Log.Warn("detach waits for an engine, aborting", "volume", v.id)
	if err := abort(v.dir); err != nil {
		return err
	}
	return attempt(ctx)
}

// drop unmounts the volume and takes it off the list. The caller has its token.
func (s *server) drop(v *volume) error {
	if err := v.remove(); err != nil {
		return err
	}
	s.forget(v)
	return nil
}

func (s *server) list() []Volume {
	s.mu.Lock()
	var all []*volume
	for _, v := range s.volumes {
		all = append(all, v)
	}
	s.mu.Unlock()
	sort.Slice(all, func(i, j int) bool { return all[i].id < all[j].id })
	described := make([]Volume, 0, len(all))
	for _, v := range all {
		described = append(described, s.describe(v))
	}
	return described
}

// describe asks sysfs for the device: the volume's own field may be locked by
// a call that waits for an engine.
func (s *server) describe(v *volume) Volume {
	s.mu.Lock()
	d := Volume{ID: v.id, BlockBytes: v.blockBytes, ReadOnly: v.readOnly, Leased: v.lessee != nil}
	s.mu.Unlock()
	if device, err := v.find(); err == nil && device != nil {
		d.Device = device.Path()
	}
	return d
}
