package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// Listener shows a pod's port on this machine's loopback interface. Anyone on
// this machine can connect to it.
type Listener struct {
	listener net.Listener
	running  sync.WaitGroup
	stop     context.CancelFunc
}

// Listen begins to forward connections to a free local port, until Close. What
// a connection fails with goes to failed, which may be called concurrently.
func (c *Cluster) Listen(pod string, port int, failed func(error)) (*Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &Listener{listener: l, stop: stop}
	f.running.Go(func() {
		for {
			local, err := l.Accept()
			if err != nil {
				return // closed
			}
			f.running.Go(func() {
				if err := c.serve(ctx, local, pod, port); err != nil && ctx.Err() == nil {
					failed(err)
				}
			})
		}
	})
	return f, nil
}

// Address is host:port on this machine.
func (f *Listener) Address() string { return f.listener.Addr().String() }

// Close ends the forwarding and every connection.
func (f *Listener) Close() error {
	f.stop()
	err := f.listener.Close()
	f.running.Wait()
	return err
}

// serve copies both ways until one side ends, or ctx.
func (c *Cluster) serve(ctx context.Context, local net.Conn, pod string, port int) error {
	defer local.Close()
	remote, err := c.Ports.DialPod(ctx, c.DriverNamespace, pod, port)
	if err != nil {
		return err
	}
	closeBoth := func() { local.Close(); remote.Close() }
	defer context.AfterFunc(ctx, closeBoth)()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(remote, local) // the other direction says why it ended
		closeBoth()
	})
	_, err = io.Copy(local, remote)
	closeBoth()
	up.Wait()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}
