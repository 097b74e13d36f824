package gatewaypod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/grpcstop"
	"github.com/lockstep-csi/lockstep/replication"
	"github.com/lockstep-csi/lockstep/replication/gateway"
)

// stopTimeout bounds the orderly end of the servers.
const stopTimeout = 5 * time.Second

// Run runs a gateway until ctx ends, or until a server fails. It then ends its
// streams, so that their senders go to another gateway, and its servers.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	p, err := open(cfg)
	if err != nil {
		return err
	}
	return errors.Join(p.serve(ctx), p.controller.Close())
}

// pod is the parts of a running gateway.
type pod struct {
	cfg        Config
	site       string
	engines    *podEngines
	controller *grpc.ClientConn
	gateway    *gateway.Gateway
	server     *grpc.Server
}

// open makes the parts; nothing runs yet.
func open(cfg Config) (*pod, error) {
	outside, err := certs.ServerTLS(cfg.PeerTLSDir, cfg.Peers...)
	if err != nil {
		return nil, err
	}
	site, err := owner(cfg)
	if err != nil {
		return nil, err
	}
	toEngine, err := certs.RoleClientTLS(cfg.TLSDir, certs.RoleEngine)
	if err != nil {
		return nil, err
	}
	toController, err := certs.RoleClientTLS(cfg.TLSDir, certs.RoleController)
	if err != nil {
		return nil, err
	}
	p := &pod{cfg: cfg, site: site}
	if p.engines, err = newPodEngines(cfg.Client, cfg.Namespace, cfg.EnginePort); err != nil {
		return nil, err
	}
	if p.controller, err = gateway.Dial(cfg.Controller, toController); err != nil {
		return nil, err
	}
	p.gateway, err = gateway.New(gateway.Config{
		Site: site, Engines: p.engines, Controller: p.controller,
		DialEngine: func(address string) (*grpc.ClientConn, error) { return gateway.Dial(address, toEngine) },
		Peer:       replication.TLSPeer(certs.SiteFromCert), MaxStreams: cfg.MaxStreams, Limiter: replication.NewLimiter(cfg.RateLimit), Software: cfg.Version,
		Clock: clock.Wall{}, Log: cfg.Log,
	})
	if err != nil {
		return nil, errors.Join(err, p.controller.Close())
	}
	p.server = grpc.NewServer(gateway.ServerOptions(outside)...)
	p.gateway.Register(p.server)
	return p, nil
}

// owner is the site that both certificates name. It refuses those of two sites
// or of another role: peers and engines would refuse them only much later.
func owner(cfg Config) (string, error) {
	outside, err := certs.LocalSite(cfg.PeerTLSDir)
	if err != nil {
		return "", err
	}
	inside, role, err := certs.LocalRole(cfg.TLSDir)
	if err != nil {
		return "", err
	}
	switch {
	case role != certs.RoleGateway:
		return "", fmt.Errorf("%s holds the certificate of the %s of site %s, and this is a gateway", cfg.TLSDir, role, inside)
	case inside != outside:
		return "", fmt.Errorf("%s holds the certificate of site %s, and %s one of site %s", cfg.PeerTLSDir, outside, cfg.TLSDir, inside)
	case slices.Contains(cfg.Peers, inside):
		return "", fmt.Errorf("peer %s is this site itself", inside)
	}
	return inside, nil
}

// serve runs everything until ctx ends or one part fails.
func (p *pod) serve(ctx context.Context) error {
	listener, err := net.Listen("tcp", p.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for other sites: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		p.engines.run(ctx)
		return nil
	})
	g.Go(func() error { return p.serveReplication(ctx, listener) })
	for address, handler := range map[string]http.Handler{p.cfg.HealthAddr: p.health(ctx), p.cfg.MetricsAddr: p.metrics()} {
		if address != "" {
			g.Go(func() error { return serveHTTP(ctx, address, handler) })
		}
	}
	p.cfg.Log.Info("gateway is serving", "site", p.site, "listen", listener.Addr().String(), "controller", p.cfg.Controller)
	return g.Wait()
}

func (p *pod) serveReplication(ctx context.Context, l net.Listener) error {
	ended := make(chan error, 1)
	go func() { ended <- p.server.Serve(l) }()
	select {
	case err := <-ended:
		p.gateway.Close()
		return fmt.Errorf("serve other sites: %w", err)
	case <-ctx.Done():
	}
	cut := time.AfterFunc(stopTimeout, p.server.Stop)
	defer cut.Stop()
	p.gateway.Close()
	p.server.GracefulStop()
	return grpcstop.Ended(<-ended)
}
