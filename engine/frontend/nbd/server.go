package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// acceptPause is how long Serve waits after Accept failed for want of
// descriptors or memory.
const acceptPause = 100 * time.Millisecond

// Server serves exports to NBD clients. Its methods are safe for concurrent
// use. Make one with New.
type Server struct {
	config  Config
	exports exports

	mu    sync.Mutex
	conns int // open connections, of all Serve calls
}

// New returns a server without exports. It fails only when config is not
// valid.
func New(config Config) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("configure nbd server: %w", err)
	}
	return &Server{
		config:  config.withDefaults(),
		exports: exports{byName: make(map[string]*export)},
	}, nil
}

// Serve accepts clients on l until ctx ends, which is not an error, or until
// accepting fails. It then closes l, answers the requests in flight, for
// Config.DrainTimeout at most, and closes its connections. When it returns,
// every goroutine that it started has ended. It may be called again, or on
// several listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	// Requests in flight outlive ctx, so that they can be answered.
	requests, cancelRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelRequests()
	stopWatching := context.AfterFunc(ctx, func() { l.Close() })
	defer stopWatching()

	var conns connectionSet
	err := s.accept(ctx, requests, l, &conns)
	l.Close()
	drained, cancel := context.WithTimeout(requests, s.config.DrainTimeout)
	defer cancel()
	conns.drain(drained)
	return err
}

// accept starts a goroutine in conns for each client.
func (s *Server) accept(ctx, requests context.Context, l net.Listener, conns *connectionSet) error {
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case err != nil && !passing(err):
			return fmt.Errorf("accept nbd client: %w", err)
		case err != nil:
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		if !s.admit() {
			nc.Close()
			s.config.OnDisconnect("", ErrTooManyConnections)
			continue
		}
		c := newConnection(requests, s, nc)
		conns.start(c, func() {
			if err := c.run(); err != nil {
				s.config.OnDisconnect(c.exportName(), err)
			}
		})
	}
}

// passing reports whether Accept may work again after err.
func passing(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// admit counts one more connection, if there may be one.
func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == s.config.MaxConnections {
		return false
	}
	s.conns++
	return true
}

// leave gives the place of a connection back.
func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}

// connectionSet is the connections of one Serve call.
type connectionSet struct {
	mu   sync.Mutex
	open map[*connection]struct{}
}

// start runs fn in a goroutine that belongs to c.
func (s *connectionSet) start(c *connection, fn func()) {
	s.mu.Lock()
	if s.open == nil {
		s.open = make(map[*connection]struct{})
	}
	s.open[c] = struct{}{}
	s.mu.Unlock()
	go func() {
		defer close(c.closed)
		fn()
		s.mu.Lock()
		delete(s.open, c)
		s.mu.Unlock()
	}()
}

// drain ends all connections and waits for them; gently until ctx ends.
func (s *connectionSet) drain(ctx context.Context) {
	s.mu.Lock()
	conns := make([]*connection, 0, len(s.open))
	for c := range s.open {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.drain()
	}
	for _, c := range conns {
		c.waitClosed(ctx)
	}
}
