package nbd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// readBufferBytes is how much is read from the socket at once when requests
// are short.
const readBufferBytes = 32 << 10

// connection is one client.
type connection struct {
	server *Server
	conn   net.Conn
	in     *bufio.Reader

	// requests is the context of the device calls; it ends when the
	// connection is torn down rather than drained.
	requests context.Context
	cancel   context.CancelFunc

	// closed is closed when the connection's goroutines have ended.
	closed chan struct{}

	export     atomic.Pointer[export] // nil until one is chosen
	negotiated negotiated             // settled before the transmission phase

	mu       sync.Mutex
	draining bool // guarded by mu: take no further requests
}

func newConnection(ctx context.Context, s *Server, nc net.Conn) *connection {
	c := &connection{
		server: s,
		conn:   nc,
		in:     bufio.NewReaderSize(nc, readBufferBytes),
		closed: make(chan struct{}),
	}
	c.requests, c.cancel = context.WithCancel(ctx)
	return c
}

// run serves the client until it leaves, fails or is drained, and then gives
// back the place that admit counted. The error says why the connection ended,
// where that was not the client's orderly wish.
func (c *connection) run() error {
	defer c.cancel()
	defer c.conn.Close()
	// Before the connection is closed: a client that has seen its connection
	// end finds the place free.
	defer c.server.leave()
	err := c.handshake()
	if e := c.export.Load(); e != nil {
		defer c.server.exports.detach(e, c)
		if err == nil && c.beginTransmission() {
			err = c.transmit(e)
		}
	}
	if err != nil && c.isDraining() && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// exportName is the name of the chosen export, or "".
func (c *connection) exportName() string {
	if e := c.export.Load(); e != nil {
		return e.name
	}
	return ""
}

// drain makes the connection answer what is in flight and then end. It does
// not wait.
func (c *connection) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	// Interrupts the reader only: replies can still be written.
	// It fails only on a closed connection, whose reader has ended anyway.
	_ = c.conn.SetReadDeadline(time.Unix(1, 0))
}

func (c *connection) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// beginTransmission lifts the handshake's deadline, unless drain has set one
// that must stay.
func (c *connection) beginTransmission() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining {
		return false
	}
	return c.conn.SetDeadline(time.Time{}) == nil
}

// waitClosed waits until the connection's goroutines have ended. When ctx ends
// first, it cancels the device calls, disconnects, and goes on waiting.
func (c *connection) waitClosed(ctx context.Context) {
	select {
	case <-c.closed:
	case <-ctx.Done():
		c.cancel()
		c.conn.Close()
		<-c.closed
	}
}

// readFull fills p from the client.
func (c *connection) readFull(p []byte, what string) error {
	if _, err := io.ReadFull(c.in, p); err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}

// skip reads and forgets n bytes from the client.
func (c *connection) skip(n uint32, what string) error {
	if _, err := io.CopyN(io.Discard, c.in, int64(n)); err != nil {
		return fmt.Errorf("skip %s: %w", what, err)
	}
	return nil
}
