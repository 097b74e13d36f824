package controllerrole

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes"

	adminv1 "github.com/lockstep-csi/lockstep/api/admin/v1"
	"github.com/lockstep-csi/lockstep/controller"
	"github.com/lockstep-csi/lockstep/controller/authority"
	"github.com/lockstep-csi/lockstep/controller/backing"
	"github.com/lockstep-csi/lockstep/controller/catalog"
	"github.com/lockstep-csi/lockstep/controller/enginepod"
	"github.com/lockstep-csi/lockstep/controller/objectdb"
	"github.com/lockstep-csi/lockstep/controller/orphan"
	"github.com/lockstep-csi/lockstep/driver/adminserver"
	"github.com/lockstep-csi/lockstep/driver/csiserver"
	"github.com/lockstep-csi/lockstep/driver/fleet"
	"github.com/lockstep-csi/lockstep/driver/groupmetrics"
	"github.com/lockstep-csi/lockstep/driver/operator"
	"github.com/lockstep-csi/lockstep/driver/probes"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/grpcstop"
	"github.com/lockstep-csi/lockstep/internal/rpc"
	"github.com/lockstep-csi/lockstep/replication"
)

// Run runs the controller until ctx ends, or until another controller has taken
// the catalog over. Engines go on without it.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	r := &role{cfg: cfg}
	err := r.open(ctx)
	if err == nil {
		err = r.serve(ctx)
	}
	return errors.Join(err, r.close())
}

// role is the parts of a running controller, in the order in which they are
// opened.
type role struct {
	cfg           Config
	client        kubernetes.Interface
	authority     *authority.Authority
	cert          certificate
	db            *objectdb.DB
	fleet         *fleet.Fleet
	controller    *controller.Server
	peers         *operator.Peers
	announcements *replication.AnnounceServer
	// operator is nil until the fleet, which asks it for the backing of
	// replicas, is there.
	operator atomic.Pointer[operator.Operator]
}

func (r *role) open(ctx context.Context) error {
	cfg := &r.cfg
	var err error
	if r.client, err = kubernetes.NewForConfig(cfg.Cluster); err != nil {
		return fmt.Errorf("connect to the cluster: %w", err)
	}
	if err := r.openCertificates(ctx); err != nil {
		return err
	}
	r.db, err = objectdb.Open(ctx, objectdb.Config{Maps: r.client.CoreV1().ConfigMaps(cfg.Namespace), Log: cfg.Log})
	if err != nil {
		return fmt.Errorf("open catalog: %w", err)
	}
	r.peers = operator.NewPeers(r.peerTLS)
	if err := r.openFleet(); err != nil {
		return err
	}
	known, err := operator.NewClaims(cfg.Cluster)
	if err != nil {
		return err
	}
	r.controller, err = controller.New(controller.Config{Catalog: catalog.New(r.db), Backend: &backend{fleet: r.fleet, capacity: capacityOf(r.client)},
		Nodes: nodes{r.client}, Claims: known, Log: cfg.Log})
	if err != nil {
		return err
	}
	o, err := operator.New(operator.Config{Rest: cfg.Cluster, Site: cfg.Site, DriverName: cfg.DriverName, Fleet: operator.OfFleet(r.fleet),
		Catalog: r.controller, Peers: r.peers, Log: cfg.Log})
	if err != nil {
		return err
	}
	r.operator.Store(o)
	return nil
}

// peerTLS is where the certificate of a Site's Secret is: one Secret is mounted,
// which a Site that names none means too.
func (r *role) peerTLS(secret string) string {
	if secret != operator.DefaultPeerSecret && secret != r.cfg.PeerTLSSecret {
		return ""
	}
	return r.cfg.PeerTLSDir
}

// errStarting: whoever announced a replica does it again.
var errStarting = errors.New("the controller is starting")

// replicaBacking is fleet.Config.ReplicaBacking.
func (r *role) replicaBacking(ctx context.Context, site, announced string) (fleet.BackingClass, error) {
	o := r.operator.Load()
	if o == nil {
		return fleet.BackingClass{}, errStarting
	}
	return o.ReplicaBacking(ctx, site, announced)
}

// openCertificates makes the authority and what the controller needs of it.
func (r *role) openCertificates(ctx context.Context) error {
	secrets := r.client.CoreV1().Secrets(r.cfg.Namespace)
	var err error
	if r.authority, err = authority.New(authority.Config{Secrets: secrets, Site: r.cfg.Site, Log: r.cfg.Log}); err != nil {
		return err
	}
	if err := r.authority.Ensure(ctx); err != nil {
		return err
	}
	r.cert = certificate{secrets, r.cfg.TLSDir}
	return r.cert.sync(ctx)
}

func (r *role) openFleet() error {
	cfg := &r.cfg
	volumes, err := backing.New(backing.Config{Client: r.client, Namespace: cfg.Namespace, Driver: cfg.DriverName})
	if err != nil {
		return err
	}
	engines, err := enginepod.New(enginepod.Config{Client: r.client, Namespace: cfg.Namespace, Site: cfg.Site, Template: cfg.EngineTemplate, Port: enginePort, Log: cfg.Log})
	if err != nil {
		return err
	}
	inside, err := certs.RoleClientTLS(cfg.TLSDir, certs.RoleEngine)
	if err != nil {
		return err
	}
	r.fleet, err = fleet.Open(fleet.Config{
		Site: cfg.Site, DB: r.db, Backing: claims{volumes, engines, cfg.Site}, Engines: pods{engines}, Linger: cfg.EngineLinger, Log: cfg.Log,
		Dial: func(address string) (*grpc.ClientConn, error) {
			// It notices within seconds that a node no longer answers: a call to one that was cut off ends.
			return rpc.Dial("passthrough:"+address, inside)
		},
		Peer: r.peers.Peer, ReplicaBacking: r.replicaBacking,
	})
	if err != nil {
		return err
	}
	r.announcements, err = replication.NewAnnounceServer(replication.AnnounceServerConfig{Site: cfg.Site, Groups: r.fleet.Groups().Standings(),
		Peer: replication.GatewayPeer(certs.RequireRole(cfg.Site, certs.RoleGateway))})
	if err != nil {
		return err
	}
	r.fleet.SetHolder(r.announcements)
	return nil
}

// serve runs everything until ctx ends or a part fails.
func (r *role) serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.db.Run(ctx) })
	group.Go(func() error { return r.fleet.AwaitReplaced(ctx) })
	group.Go(func() error { return r.authority.Run(ctx) })
	group.Go(func() error {
		return r.cert.run(ctx, func(err error) { r.cfg.Log.Warn("certificate is not read", "error", err) })
	})
	group.Go(func() error { return r.serveCSI(ctx) })
	group.Go(func() error { return r.sweepOrphans(ctx) })
	group.Go(func() error { return r.operator.Load().Run(ctx) })
	group.Go(func() error { return r.serveAdmin(ctx) })
	group.Go(func() error { return r.serveAnnouncements(ctx) })
	group.Go(func() error {
		return probes.Run(ctx, probes.Config{MetricsAddr: r.cfg.MetricsAddr, HealthAddr: r.cfg.HealthAddr, Ready: func() error { return ctx.Err() },
			Metrics: []prometheus.Collector{groupmetrics.New(r.fleet.Groups(), clock.Wall{})}})
	})
	r.cfg.Log.Info("controller is serving", "site", r.cfg.Site, "namespace", r.cfg.Namespace, "version", r.cfg.Version)
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// sweepOrphans takes away what the fleet knows nothing of, until ctx ends.
func (r *role) sweepOrphans(ctx context.Context) error {
	if r.cfg.OrphanGrace == 0 {
		return nil
	}
	sweeper, err := orphan.New(orphan.Config{Client: r.client, Namespace: r.cfg.Namespace, Site: r.cfg.Site, Driver: r.cfg.DriverName,
		Grace: r.cfg.OrphanGrace, Log: r.cfg.Log, Unused: r.controller.Unused, DeleteUnused: r.controller.DeleteUnused, Volumes: func() []string {
			var ids []string
			for _, v := range r.fleet.Volumes() {
				ids = append(ids, v.ID.String())
			}
			return ids
		}})
	if err != nil {
		return err
	}
	return sweeper.Run(ctx)
}

// reconcileTimeout bounds what is done for the catalog before CSI is served:
// what takes longer is tried again by the calls for it. A volume whose node is
// lost takes all of it, and can be detached only by the calls that wait.
const reconcileTimeout = 5 * time.Second

func (r *role) serveCSI(ctx context.Context) error {
	reconciling, cancel := context.WithTimeout(ctx, reconcileTimeout)
	if err := r.controller.Reconcile(reconciling); err != nil && ctx.Err() == nil {
		r.cfg.Log.Warn("some volumes could not be brought up to date yet", "error", err)
	}
	cancel()
	return csiserver.Run(ctx, csiserver.Config{Endpoint: r.cfg.CSIEndpoint, DriverName: r.cfg.DriverName, Version: r.cfg.Version, Log: r.cfg.Log,
		Controller: r.controller, GroupController: r.controller, Ready: r.controller.Ready})
}

func (r *role) serveAdmin(ctx context.Context) error {
	srv := grpc.NewServer()
	admin := adminSite{fleet: r.fleet, known: r.controller, name: r.cfg.Site, peers: r.peers.Addresses}
	adminv1.RegisterAdminServer(srv, adminserver.New(adminserver.Config{
		Site: admin, Command: "kubectl lockstep", Timelines: admin.timelines, Version: r.cfg.Version, Clock: clock.Wall{}, OwnedPin: r.ownsPin,
	}))
	return serveGRPC(ctx, srv, r.cfg.AdminListen)
}

func (r *role) serveAnnouncements(ctx context.Context) error {
	config, err := certs.RoleServerTLS(r.cfg.TLSDir, certs.RoleGateway)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(replication.ServerOptions(config)...)
	r.announcements.Register(srv)
	return serveGRPC(ctx, srv, r.cfg.Listen)
}

// serveGRPC serves until ctx ends. Calls in progress are cut off: whoever made
// them repeats them.
func serveGRPC(ctx context.Context, srv *grpc.Server, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", address, err)
	case <-ctx.Done():
		srv.Stop()
		return grpcstop.Ended(<-ended)
	}
}

// ownsPin reports whether a pin belongs to a snapshot or to an open rewind. A
// catalog that cannot be read owns everything.
func (r *role) ownsPin(pin string) bool {
	held, err := catalog.New(r.db).HasPin(pin)
	return held || err != nil || group.IsRewindPin(pin)
}

// close closes what open opened, last first.
func (r *role) close() error {
	var errs []error
	if r.controller != nil {
		r.controller.Close()
	}
	if r.fleet != nil {
		errs = append(errs, r.fleet.Close())
	}
	if r.peers != nil {
		errs = append(errs, r.peers.Close())
	}
	if r.db != nil {
		errs = append(errs, r.db.Close())
	}
	return errors.Join(errs...)
}
