package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// server is one running holder.
type server struct {
	config Config
	// changed is sent to when the holder may have become idle; capacity 1.
	changed chan struct{}
	// shutdown is closed by the first Shutdown request.
	shutdown     chan struct{}
	shutdownOnce sync.Once
	wg           sync.WaitGroup // connections

	mu      sync.Mutex
	volumes map[string]*volume
	conns   map[*connection]struct{}
}

// Run keeps the devices of a node until ctx is cancelled, a client asks for
// shutdown, or there has been nothing to keep for Config.IdleTimeout; it
// returns nil in these cases. When ctx is cancelled or on shutdown, every volume
// is detached first, by force: I/O that is under way fails.
//
// Only one holder runs in a directory: Run waits for an older one to end for as
// long as Config.CallTimeout, and then fails.
func Run(ctx context.Context, config Config) error {
	config = config.withDefaults()
	if err := config.Validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return fmt.Errorf("make holder directory: %w", err)
	}
	dir, err := filepath.EvalSymlinks(config.Dir)
	if err != nil {
		return fmt.Errorf("resolve holder directory: %w", err)
	}
	config.Dir = dir // as the kernel will name backing files
	unlock, err := lockDir(ctx, config)
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := listen(config.Socket)
	if err != nil {
		return err
	}
	s := &server{
		config:   config,
		changed:  make(chan struct{}, 1),
		shutdown: make(chan struct{}),
		volumes:  make(map[string]*volume),
		conns:    make(map[*connection]struct{}),
	}
	return s.serve(ctx, listener)
}

// lockDir makes this process the holder of its directory.
func lockDir(ctx context.Context, config Config) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(config.Dir, ".lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open holder lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, config.CallTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock holder directory: %w", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for another holder in %s: %w", config.Dir, ctx.Err())
		}
	}
}

// listen replaces whatever socket a holder that died left at path. The caller
// holds the directory's lock.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale holder socket: %w", err)
	}
	// The socket hands out block devices, so it must never be open to others,
	// not even between being made and being restricted.
	old := unix.Umask(0o177)
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on holder socket: %w", err)
	}
	return listener, nil
}

// serve accepts connections until the holder is to end, and then takes down
// what it keeps.
func (s *server) serve(ctx context.Context, listener *net.UnixListener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	accepted := make(chan error, 1)
	go func() { accepted <- s.accept(ctx, listener) }()

	err := s.awaitEnd(ctx, accepted)
	cancel()
	listener.Close()
	s.closeConnections()
	s.wg.Wait()
	return errors.Join(err, s.detachAll())
}

// accept starts a goroutine for each connection until the listener is closed.
func (s *server) accept(ctx context.Context, listener *net.UnixListener) error {
	for {
		socket, err := listener.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on holder socket: %w", err)
		}
		c := newConnection(s, socket)
		s.mu.Lock()
		if ctx.Err() != nil {
			s.mu.Unlock()
			_ = socket.Close()
			return nil
		}
		s.conns[c] = struct{}{}
		s.wg.Add(1) // under mu, so that it is ordered before closeConnections
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			c.run(ctx)
		}()
	}
}

// awaitEnd returns when the holder is to end.
func (s *server) awaitEnd(ctx context.Context, accepted <-chan error) error {
	timer := time.NewTimer(max(s.config.IdleTimeout, 0))
	defer timer.Stop()
	for {
		var expired <-chan time.Time
		if s.idle() && s.config.IdleTimeout > 0 {
			expired = timer.C
		}
		select {
		case <-expired:
			if s.idle() {
				return nil
			}
		case <-s.changed:
			timer.Reset(max(s.config.IdleTimeout, 0))
		case <-s.shutdown:
			return nil
		case err := <-accepted:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *server) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.volumes) == 0 && len(s.conns) == 0
}

// touch makes awaitEnd look again whether the holder is idle.
func (s *server) touch() {
	select {
	case s.changed <- struct{}{}:
	default: // it is going to look anyway
	}
}

// closeConnections closes every socket, which ends its goroutine.
func (s *server) closeConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.socket.Close()
	}
}

// disconnected ends the leases of a connection whose socket was closed by the
// other side.
func (s *server) disconnected(c *connection) {
	s.mu.Lock()
	delete(s.conns, c)
	for _, v := range s.volumes {
		if v.lessee == c {
			v.lessee = nil
			s.config.Log.Info("engine is gone, device waits for the next", "volume", v.id)
		}
	}
	s.mu.Unlock()
	s.touch()
}

// detachAll takes every volume down at the end of the holder.
func (s *server) detachAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.CallTimeout)
	defer cancel()
	s.mu.Lock()
	var ids []string
	for id := range s.volumes {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, s.detach(ctx, id, true))
	}
	return errors.Join(errs...)
}
