package node

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// unmounts are those under way, by path. The kernel takes a mount out of the
// table first and writes back then, so that the table cannot tell.
type unmounts struct {
	mu   sync.Mutex
	ends map[string]*unmount
}

// unmount is one under way, or just done.
type unmount struct {
	done chan struct{}
	err  error // valid after done is closed
}

// begin starts an unmount of path, unless one is under way.
func (u *unmounts) begin(path string, do func(string) error) *unmount {
	u.mu.Lock()
	defer u.mu.Unlock()
	if under := u.ends[path]; under != nil {
		return under
	}
	if u.ends == nil {
		u.ends = make(map[string]*unmount)
	}
	fresh := &unmount{done: make(chan struct{})}
	u.ends[path] = fresh
	go func() {
		fresh.err = do(path)
		u.mu.Lock()
		delete(u.ends, path)
		u.mu.Unlock()
		close(fresh.done)
	}()
	return fresh
}

// pending is the unmount of path that is under way, or nil.
func (u *unmounts) pending(path string) *unmount {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ends[path]
}

// unmountAll unmounts whatever is mounted at path, however often. One that waits
// for its device for longer than UnmountWait is left behind: the call, and those
// after it until it is done, are ErrUnavailable.
func (s *Server) unmountAll(ctx context.Context, path string) error {
	if under := s.unmounting.pending(path); under != nil {
		if err := s.awaitUnmount(ctx, path, under); err != nil {
			return err
		}
	}
	mounts, err := s.mountsAt(path)
	if err != nil {
		return err
	}
	for range mounts {
		if err := s.awaitUnmount(ctx, path, s.unmounting.begin(path, s.host.Unmount)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) awaitUnmount(ctx context.Context, path string, u *unmount) error {
	timer := time.NewTimer(s.cfg.UnmountWait)
	defer timer.Stop()
	select {
	case <-u.done:
		return u.err
	case <-timer.C:
	case <-ctx.Done():
	}
	return fmt.Errorf("unmount of %s waits for the volume's engine, which does not serve its device: %w", path, ErrUnavailable)
}
