package harness

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/lockstep-csi/lockstep/internal/loopback"
)

// Proxy is a TCP connection between two sites that can be cut. Traffic passes
// from Address to a target.
type Proxy struct {
	Address string // host:port

	target   string
	listener net.Listener
	joined   sync.WaitGroup
	sent     atomic.Int64 // bytes from those who connected to the target

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

// StartProxy listens at loopback.Host and passes on to target. The
// target need not listen yet.
func (e *Env) StartProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(loopback.Host(), "0"))
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	p := &Proxy{Address: l.Addr().String(), target: target, listener: l, conns: map[net.Conn]struct{}{}}
	p.joined.Go(p.accept)
	e.Undo(p.close)
	return p, nil
}

// Cut breaks every connection and refuses new ones until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for conn := range p.conns {
		_ = conn.Close() // breaking it is the point
	}
}

// Mend lets connections through again.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// SentBytes is what was passed on to the target so far: TLS, headers and all.
func (p *Proxy) SentBytes() int64 { return p.sent.Load() }

func (p *Proxy) close() error {
	err := p.listener.Close()
	p.Cut()
	p.joined.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.joined.Go(func() { p.pass(in) })
	}
}

// pass connects in with the target until one of them ends, or the proxy is cut.
func (p *Proxy) pass(in net.Conn) {
	defer p.forget(in)
	if !p.keep(in) {
		return
	}
	out, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.forget(out)
	if !p.keep(out) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(in, out) // how it ended does not matter
		_ = errors.Join(in.Close(), out.Close())
	})
	_, _ = io.Copy(out, io.TeeReader(in, countWriter{&p.sent}))
	_ = errors.Join(in.Close(), out.Close())
	both.Wait()
}

func (p *Proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	p.conns[conn] = struct{}{}
	return true
}

func (p *Proxy) forget(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
	_ = conn.Close() // it may be closed already
}

type countWriter struct{ n *atomic.Int64 }

func (w countWriter) Write(p []byte) (int, error) {
	w.n.Add(int64(len(p)))
	return len(p), nil
}
