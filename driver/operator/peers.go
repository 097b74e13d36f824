package operator

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/replication"
)

// Peers is the directory of the other sites. It dials each one's gateway as its
// Site says, and follows changes. Its methods may be called concurrently.
type Peers struct {
	tlsDir func(secret string) string

	mu    sync.Mutex
	peers map[string]*peerConn // guarded by mu
}

// NewPeers returns an empty directory. tlsDir is the folder where a Secret with
// ca.crt, tls.crt and tls.key is mounted; empty: it is not.
func NewPeers(tlsDir func(secret string) string) *Peers {
	return &Peers{tlsDir: tlsDir, peers: map[string]*peerConn{}}
}

// Peer is fleet.Config.Peer.
func (p *Peers) Peer(site string) (fleet.Peer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.peers[site]
	if c == nil {
		return fleet.Peer{}, false
	}
	return fleet.Peer{Address: c.address, Conn: c.conn}, true
}

// Addresses are where the peers are, by site.
func (p *Peers) Addresses() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]string, len(p.peers))
	for site, c := range p.peers {
		out[site] = c.address
	}
	return out
}

// Close ends the connections.
func (p *Peers) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for site, c := range p.peers {
		errs = append(errs, c.conn.Close())
		delete(p.peers, site)
	}
	return errors.Join(errs...)
}

type peerConn struct {
	address string
	secret  string
	conn    *grpc.ClientConn
}

// set makes a site a peer that is reached at an address, and reports whether
// that is new. It fails while the certificates are not there.
func (p *Peers) set(site, address, secret string) (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.peers[site]
	if old != nil && old.address == address && old.secret == secret {
		return false, nil
	}
	conn, err := p.dial(site, address, secret)
	if err != nil {
		return false, err
	}
	p.peers[site] = &peerConn{address, secret, conn}
	if old != nil {
		err = old.conn.Close()
	}
	return true, err
}

func (p *Peers) dial(site, address, secret string) (*grpc.ClientConn, error) {
	dir := p.tlsDir(secret)
	if dir == "" {
		return nil, fmt.Errorf("secret %s is not mounted in the controller's pod", secret)
	}
	config, err := certs.ClientTLS(dir, site)
	if err != nil {
		return nil, fmt.Errorf("certificates of secret %s: %w", secret, err)
	}
	return replication.Dial(address, config)
}

// drop forgets a peer, and reports whether it was one.
func (p *Peers) drop(site string) (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.peers[site]
	if c == nil {
		return false, nil
	}
	delete(p.peers, site)
	return true, c.conn.Close()
}

// errNoPeer: the site has no connection.
var errNoPeer = status.Error(codes.Unavailable, "there is no connection to the site")

// check waits until the peer's gateway has taken this site's certificate, or
// says why not. It returns the version of Lockstep that answers there; empty: one
// that is too old to tell.
func (p *Peers) check(ctx context.Context, site string) (version string, err error) {
	p.mu.Lock()
	c := p.peers[site]
	p.mu.Unlock()
	if c == nil {
		return "", errNoPeer
	}
	if err := c.ready(ctx); err != nil {
		return "", err
	}
	version, err = replication.Identify(ctx, c.conn)
	if err != nil {
		return "", fmt.Errorf("the gateway at %s does not say who it is: %w", c.address, err)
	}
	return version, nil
}

// ready waits until the gateway has taken this site's certificate.
func (c *peerConn) ready(ctx context.Context) error {
	for {
		state := c.conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return errNoPeer
		case connectivity.TransientFailure:
			return fmt.Errorf("the gateway at %s does not answer, or refuses the certificate", c.address)
		case connectivity.Idle:
			c.conn.Connect()
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("the gateway at %s does not answer: %w", c.address, ctx.Err())
		}
	}
}
