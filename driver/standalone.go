package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/driver/adminserver"
	"github.com/lockstep-csi/lockstep/driver/csiserver"
	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine/frontend/nbd"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/grpcstop"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/memory"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/node"
	"github.com/lockstep-csi/lockstep/node/holder"
	"github.com/lockstep-csi/lockstep/replication"
)

// stopTimeout bounds the orderly end of servers before they are cut off.
const stopTimeout = 10 * time.Second

// RunStandalone runs a site until ctx ends, and then stops in order: servers,
// replication, groups, frontends, stores. Attached devices stay with the
// holder; their I/O waits for the next start.
func RunStandalone(ctx context.Context, cfg StandaloneConfig) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.MaxVolumes == 0 {
		cfg.MaxVolumes = DefaultMaxVolumes
	}
	s := &standalone{cfg: cfg, doubts: make(chan error, 1)}
	err := s.open(ctx)
	if err == nil {
		err = s.serve(ctx)
	}
	return errors.Join(err, s.close())
}

// standalone is the parts of a site, in the order in which they are opened.
type standalone struct {
	cfg        StandaloneConfig
	nbd        *nbd.Server
	holder     *holder.Client
	peers      map[string]*grpc.ClientConn
	site       *site.Site
	replicator *replication.Server // nil without Listen
	catalog    kv.DB
	controller *controller.Server
	node       *node.Server
	// doubts receives why a database of the site takes no changes any more; capacity 1.
	doubts chan error
}

func (s *standalone) open(ctx context.Context) error {
	cfg := &s.cfg
	for _, dir := range []string{cfg.Root, cfg.path(nodeStateDir), cfg.path(devicesDir), filepath.Dir(cfg.Admin)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	var err error
	if s.nbd, err = nbd.New(nbd.Config{}); err != nil {
		return err
	}
	if err := s.startHolder(ctx); err != nil {
		return err
	}
	peers, err := s.dialPeers()
	if err != nil {
		return err
	}
	s.site, err = site.Open(ctx, site.Config{Name: cfg.Site, Root: cfg.Root, JournalRoot: cfg.JournalRoot, Holder: s.holder, Transport: cfg.Transport, Peers: peers, Exports: s.nbd, IndexMemory: cfg.IndexMemory, ScrubEvery: cfg.ScrubEvery, CacheBytes: memory.CacheBytes(), Fatal: s.doubt, Log: cfg.Log})
	if err != nil {
		return err
	}
	if err := s.openReplication(); err != nil {
		return err
	}
	return s.openCSI(ctx)
}

// startHolder finds the holder that keeps this site's devices, or starts one.
func (s *standalone) startHolder(ctx context.Context) error {
	cfg := &s.cfg
	exe := cfg.HolderExe
	if exe == "" {
		var err error
		if exe, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
	}
	socket, dir := cfg.path(holderSocket), cfg.path(devicesDir)
	var err error
	s.holder, err = holder.Start(ctx, holder.StartConfig{Socket: socket, Exe: exe, Args: cfg.HolderArgs(socket, dir)})
	return err
}

func (s *standalone) dialPeers() (map[string]site.Peer, error) {
	s.peers = map[string]*grpc.ClientConn{}
	out := map[string]site.Peer{}
	for name, address := range s.cfg.Peers {
		config, err := certs.ClientTLS(s.cfg.TLSDir, name)
		if err != nil {
			return nil, err
		}
		conn, err := replication.Dial(address, config)
		if err != nil {
			return nil, err
		}
		s.peers[name] = conn
		out[name] = site.Peer{Address: address, Conn: conn, Limiter: replication.NewLimiter(s.cfg.RateLimit), Compress: s.cfg.Compress}
	}
	return out, nil
}

func (s *standalone) openReplication() error {
	if s.cfg.Listen == "" {
		return nil
	}
	var err error
	s.replicator, err = replication.NewServer(replication.ServerConfig{
		Site: s.cfg.Site, Groups: s.site.Groups().Standings(), Stores: s.site.Replicas(),
		Peer: replication.TLSPeer(certs.SiteFromCert), Software: s.cfg.Version, Log: s.cfg.Log,
	})
	if err == nil {
		s.site.Groups().SetFencer(groups.OneProcess(s.replicator))
	}
	return err
}

func (s *standalone) openCSI(ctx context.Context) error {
	cfg := &s.cfg
	var err error
	if s.catalog, err = (vfs.OS{}).OpenDB(cfg.path(csiCatalogFile)); err != nil {
		return err
	}
	s.catalog = kv.Watch(s.catalog, s.doubt)
	b := &backend{site: s.site, fs: vfs.OS{}, root: cfg.Root, journalRoot: cfg.JournalRoot, node: cfg.NodeID}
	nodes, err := controller.OneNode(cfg.NodeID)
	if err != nil {
		return err
	}
	known := controllerConfig(catalog.New(s.catalog), b, nodes, cfg.Log)
	known.MaxVolumesPerNode = cfg.MaxVolumes
	s.controller, err = controller.New(known)
	if err != nil {
		return err
	}
	s.node, err = node.New(node.Config{NodeID: cfg.NodeID, MaxVolumesPerNode: cfg.MaxVolumes, Devices: nodeDevices{b}, StateDir: cfg.path(nodeStateDir), Log: cfg.Log})
	if err != nil {
		return err
	}
	if err := s.controller.Reconcile(ctx); err != nil {
		cfg.Log.Error("some volumes could not be brought up to date", "error", err)
	}
	if err := s.adoptUnknown(ctx); err != nil {
		cfg.Log.Error("some volumes of this site are not known to CSI: they cannot be published", "error", err)
	}
	return nil
}

// controllerConfig is CSI's controller of a site in this process.
func controllerConfig(c *catalog.Catalog, b *backend, nodes controller.Nodes, log *slog.Logger) controller.Config {
	return controller.Config{Catalog: c, Backend: b, Nodes: nodes, Reserved: b.reserved, Log: log}
}

// doubt has the site end because of a database of its own.
func (s *standalone) doubt(err error) {
	select {
	case s.doubts <- err:
	default: // it ends because of the other one
	}
}

// awaitDoubt ends the site when one of its databases takes no changes any more. It could
// go on, but with no volume attached, no point pinned and no role changed any more, and
// nobody would mend that but who starts it again: so whoever watches over it does, at
// once. Devices wait for that with the holder.
func (s *standalone) awaitDoubt(ctx context.Context) error {
	select {
	case err := <-s.doubts:
		return fmt.Errorf("end, because a database takes no changes any more and the next start finds out what a failed commit has left in it: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// holderGone is closed once the holder is gone; nil where there is none.
func (s *standalone) holderGone() <-chan struct{} {
	if s.holder == nil {
		return nil
	}
	return s.holder.Done()
}

// awaitHolder tells when the holder is gone. Nobody notices: devices work on. But no volume
// is attached any more, and the next start of the site, which seems to be what helps, is the
// end of those that are.
func (s *standalone) awaitHolder(ctx context.Context) {
	select {
	case <-s.holderGone():
		if ctx.Err() == nil {
			s.cfg.Log.Error("holder is gone: devices work on while this site runs, and fail when it ends; no volume can be attached: stop the applications, unpublish all volumes, and start the site again")
		}
	case <-ctx.Done():
	}
}

// serve runs the servers until ctx ends or one of them fails.
func (s *standalone) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.awaitDoubt(ctx) })
	g.Go(func() error {
		s.awaitHolder(ctx)
		return nil
	})
	g.Go(func() error {
		return csiserver.Run(ctx, csiserver.Config{
			Endpoint: s.cfg.CSIEndpoint, Version: s.cfg.Version, Log: s.cfg.Log,
			Controller: s.controller, GroupController: s.controller, Node: s.node, Ready: s.controller.Ready,
		})
	})
	g.Go(func() error { return s.serveAdmin(ctx) })
	g.Go(func() error { return s.serveNBD(ctx) })
	g.Go(func() error {
		s.site.Groups().TellEnds(ctx)
		return nil
	})
	g.Go(func() error {
		s.site.Groups().TellWindows(ctx)
		return nil
	})
	g.Go(func() error {
		s.tellCSI(ctx)
		return nil
	})
	if s.replicator != nil {
		g.Go(func() error { return s.serveReplication(ctx) })
	}
	if s.cfg.MetricsAddr != "" {
		g.Go(func() error { return s.serveMetrics(ctx) })
	}
	s.cfg.Log.Info("site is serving", "site", s.cfg.Site, "csi", s.cfg.CSIEndpoint, "admin", s.cfg.Admin, "listen", s.cfg.Listen)
	return g.Wait()
}

// listenUnix listens on a socket that only this user can open. A stale one is
// replaced.
func listenUnix(path string) (net.Listener, error) {
	if err := csiserver.RemoveStale(path); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

func (s *standalone) serveAdmin(ctx context.Context) error {
	l, err := listenUnix(s.cfg.Admin)
	if err != nil {
		return err
	}
	srv := grpc.NewServer()
	admin := adminSite{site: s.site, known: s.controller, exports: s.nbd, nbdSocket: s.cfg.path(nbdSocket), peers: s.cfg.Peers}
	adminv1.RegisterAdminServer(srv, adminserver.New(adminserver.Config{
		Site: admin, Forks: admin, Timelines: admin.timelines,
		Version: s.cfg.Version, Clock: clock.Wall{}, Promoted: s.adopt, OwnedPin: s.ownsPin,
	}))
	return serveGRPC(ctx, srv, l, stopTimeout)
}

func (s *standalone) serveNBD(ctx context.Context) error {
	l, err := listenUnix(s.cfg.path(nbdSocket))
	if err != nil {
		return err
	}
	return s.nbd.Serve(ctx, l)
}

func (s *standalone) serveReplication(ctx context.Context) error {
	// Only configured peers may connect; without any, whoever the authority
	// signed.
	config, err := certs.ServerTLS(s.cfg.TLSDir, slices.Collect(maps.Keys(s.cfg.Peers))...)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for other sites: %w", err)
	}
	srv := grpc.NewServer(replication.ServerOptions(config)...)
	s.replicator.Register(srv)
	// A stream lasts as long as its peer, so there is no end to wait for; what
	// was not acknowledged is sent again by the next one.
	return serveGRPC(ctx, srv, l, 0)
}

// serveGRPC serves until ctx ends; calls in progress then get grace to end.
func serveGRPC(ctx context.Context, srv *grpc.Server, l net.Listener, grace time.Duration) error {
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	cut := time.AfterFunc(grace, srv.Stop)
	defer cut.Stop()
	srv.GracefulStop()
	return grpcstop.Ended(<-ended)
}

func (s *standalone) serveMetrics(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(newRegistry(s.site, s.holderGone()), promhttp.HandlerOpts{}))
	srv := &http.Server{Addr: s.cfg.MetricsAddr, Handler: mux, ReadHeaderTimeout: stopTimeout}
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve metrics: %w", err)
	case <-ctx.Done():
	}
	err := srv.Close()
	if ended := <-ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// ownsPin reports whether a pin belongs to a snapshot, an open rewind or a fork.
func (s *standalone) ownsPin(pin string) bool {
	// A catalog that cannot be read owns everything.
	held, err := catalog.New(s.catalog).HasPin(pin)
	return held || err != nil || group.IsRewindPin(pin) || s.site.OwnsPin(pin)
}

// close closes what open opened, last first. Replication ends before the site:
// it appends to the site's stores.
func (s *standalone) close() error {
	var errs []error
	if s.controller != nil {
		s.controller.Close()
	}
	if s.catalog != nil {
		errs = append(errs, s.catalog.Close())
	}
	if s.replicator != nil {
		errs = append(errs, s.replicator.Close())
	}
	if s.site != nil {
		errs = append(errs, s.site.Close())
	}
	for _, conn := range s.peers {
		errs = append(errs, conn.Close())
	}
	if s.holder != nil {
		errs = append(errs, s.holder.Close())
	}
	return errors.Join(errs...)
}
