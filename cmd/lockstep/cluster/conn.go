package cluster

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// conn is a forwarded connection: the near end of a pipe, which has the
// deadlines that streams lack, and two copies between its far end and the data
// stream. It implements net.Conn.
type conn struct {
	net.Conn
	connection httpstream.Connection
	running    sync.WaitGroup

	mu     sync.Mutex
	remote error // what the kubelet said; guarded by mu
}

// newConn opens the streams of one connection to port. It owns connection.
func newConn(connection httpstream.Connection, port int) (net.Conn, error) {
	failures, err := connection.CreateStream(portHeaders(corev1.StreamTypeError, port))
	if err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	// Nothing is written to it.
	if err := failures.Close(); err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	data, err := connection.CreateStream(portHeaders(corev1.StreamTypeData, port))
	if err != nil {
		return nil, errors.Join(err, connection.Close())
	}
	near, far := net.Pipe()
	c := &conn{Conn: near, connection: connection}
	told := make(chan struct{}) // the error stream has ended
	c.running.Go(func() {
		defer close(told)
		message, err := io.ReadAll(failures)
		if err == nil && len(message) > 0 {
			c.mu.Lock()
			c.remote = errors.New(strings.TrimSpace(string(message)))
			c.mu.Unlock()
			far.Close()
		}
	})
	c.running.Go(func() {
		_, _ = io.Copy(far, data)
		<-told // how it ended; a kubelet closes both, in either order
		far.Close()
	})
	c.running.Go(func() {
		_, _ = io.Copy(data, far)
		_ = data.Close()
	})
	return c, nil
}

// Read implements net.Conn. A connection that the kubelet refused ends with its
// reason.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.remote != nil {
			err = c.remote
		}
	}
	return n, err
}

// Close implements net.Conn. It returns when no goroutine of the connection is
// left.
func (c *conn) Close() error {
	err := errors.Join(c.Conn.Close(), c.connection.Close())
	c.running.Wait()
	return err
}
