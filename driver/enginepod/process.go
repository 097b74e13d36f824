package enginepod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/driver/probes"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/engine/frontend/nbd"
	"github.com/lockstep-csi/lockstep/engine/lease"
	"github.com/lockstep-csi/lockstep/engine/lease/leaseapi"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// ProcessConfig is what the engine role needs; see docs/kubernetes.md, "Flags".
type ProcessConfig struct {
	Volume       journal.VolumeID
	StoreDir     string // where the backing volume is mounted
	Listen       string // host:port of the control API and of replication
	HolderSocket string // of the node's holder
	TLSDir       string // the role's certificate
	PeerTLSDir   string // for other sites; empty, or an empty directory: no peer yet
	// Lease names the Lease that the engine renews; empty: none. LeaseID is
	// this pod's, the same after a restart in it.
	Lease   string
	LeaseID string
	// Namespace of the Lease; empty: the pod's.
	Namespace string
	// NBDListen is where views and the live volume are shown to tools; empty:
	// nowhere. Whoever can connect can write to a volume that is not attached.
	NBDListen   string
	MetricsAddr string
	HealthAddr  string
	Version     string
	IndexMemory int64        // bytes for the volume's index; 0: the journal's default
	Log         *slog.Logger // nil: slog.Default()
}

// Validate reports the first field that cannot be used; it has no effects.
func (c *ProcessConfig) Validate() error {
	switch {
	case c.Volume.IsZero():
		return errors.New("engine configuration: Volume is missing")
	case !filepath.IsAbs(c.StoreDir):
		return fmt.Errorf("engine configuration: store directory %q is not an absolute path", c.StoreDir)
	case c.Listen == "" || c.HolderSocket == "" || c.TLSDir == "":
		return errors.New("engine configuration: Listen, HolderSocket and TLSDir are required")
	case c.Lease != "" && c.LeaseID == "":
		return errors.New("engine configuration: a lease needs the pod's id")
	case c.IndexMemory != 0 && c.IndexMemory < journal.MinIndexMemory:
		return fmt.Errorf("engine configuration: %d bytes for the index, want at least %d", c.IndexMemory, int64(journal.MinIndexMemory))
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

// Run runs an engine until ctx ends, its lease is lost, or its journal fails.
// On its way out it makes everything durable and leaves its device to the next
// engine.
func Run(ctx context.Context, cfg ProcessConfig) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	files, release, err := keepLease(ctx, cfg, end)
	if err != nil {
		return err
	}
	p := &process{cfg: cfg}
	err = p.serve(ctx, files)
	if cause := context.Cause(ctx); errors.Is(cause, lease.ErrLost) {
		err = errors.Join(cause, err)
	}
	release()
	return err
}

// process is the parts of a running engine.
type process struct{ cfg ProcessConfig }

// keepLease begins to renew the lease, if there is one, and returns files that
// change only while it is valid. A lease that is lost ends everything. release
// is called when everything is closed, which may write as well.
func keepLease(ctx context.Context, cfg ProcessConfig, end context.CancelCauseFunc) (files vfs.FS, release func(), err error) {
	if cfg.Lease == "" {
		return vfs.OS{}, func() {}, nil
	}
	at, err := leaseapi.InCluster(cfg.Lease)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Namespace != "" {
		at.Namespace = cfg.Namespace
	}
	store, err := leaseapi.New(at)
	if err != nil {
		return nil, nil, err
	}
	keeper := lease.NewKeeper(store, cfg.LeaseID, lease.Boot{}, cfg.Log)
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var renewing sync.WaitGroup
	renewing.Go(func() {
		if err := keeper.Run(keeping); err != nil && keeping.Err() == nil {
			end(fmt.Errorf("volume %s: %w", cfg.Volume, err))
		}
	})
	// Nothing waits for a lease for longer than an orderly end may take.
	waiting, give := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() { time.AfterFunc(closeTimeout, give) })
	release = func() {
		unhook()
		give()
		stop()
		renewing.Wait()
		releasing, cancel := context.WithTimeout(context.Background(), lease.RequestTimeout)
		defer cancel()
		if err := keeper.Release(releasing); err != nil {
			cfg.Log.Warn("lease is not released: the next engine waits for its end", "error", err)
		}
	}
	pass := func() error {
		if keeper.Valid() {
			return nil
		}
		return keeper.Await(waiting)
	}
	return vfs.Gated{FS: vfs.OS{}, Pass: pass}, release, nil
}

// closeTimeout bounds the orderly end of an engine.
const closeTimeout = 20 * time.Second

// serve opens the backing volume and serves it until ctx ends.
func (p *process) serve(ctx context.Context, files vfs.FS) error {
	site, _, err := certs.LocalRole(p.cfg.TLSDir)
	if err != nil {
		return err
	}
	shown, err := nbd.New(nbd.Config{})
	if err != nil {
		return err
	}
	inside, err := certs.RoleServerTLS(p.cfg.TLSDir, certs.RoleController, certs.RoleGateway, certs.RoleEngine)
	if err != nil {
		return err
	}
	pod, err := Open(Config{
		Volume: p.cfg.Volume, Dir: p.cfg.StoreDir, FS: files, IndexMemory: p.cfg.IndexMemory, Version: p.cfg.Version, Log: p.cfg.Log, Exports: shown, Site: site,
		Devices:    HolderDevices{Volume: p.cfg.Volume, Socket: p.cfg.HolderSocket, Log: p.cfg.Log},
		DialEngine: p.dialEngine, DialPeer: p.dialPeer, Peer: replication.GatewayPeer(certs.RequireRole(site, certs.RoleGateway)),
	})
	if err != nil {
		return err
	}
	options := append(replication.ServerOptions(inside), grpc.ChainUnaryInterceptor(mayCall(site)), grpc.ChainStreamInterceptor(mayStream(site)))
	server := grpc.NewServer(options...)
	control.NewServer(pod, clock.Wall{}).Register(server)
	pod.RegisterStreams(server)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveGRPC(ctx, server, p.cfg.Listen) })
	group.Go(func() error { return p.serveNBD(ctx, shown) })
	group.Go(func() error {
		return probes.Run(ctx, probes.Config{MetricsAddr: p.cfg.MetricsAddr, HealthAddr: p.cfg.HealthAddr, Metrics: metricsOf(pod), Ready: pod.Ready})
	})
	group.Go(func() error {
		select {
		case err := <-pod.Fatal():
			return err
		case <-ctx.Done():
			return nil
		}
	})
	return errors.Join(group.Wait(), pod.Close())
}

func (p *process) dialEngine(address string) (*grpc.ClientConn, error) {
	config, err := certs.RoleClientTLS(p.cfg.TLSDir, certs.RoleEngine)
	if err != nil {
		return nil, err
	}
	return replication.Dial("passthrough:"+address, config)
}

func (p *process) dialPeer(site, address string) (*grpc.ClientConn, error) {
	if p.cfg.PeerTLSDir == "" {
		return nil, fmt.Errorf("there are no certificates for other sites: give the chart the Secret of `lockstep certs`")
	}
	config, err := certs.ClientTLS(p.cfg.PeerTLSDir, site)
	if err != nil {
		return nil, err
	}
	return replication.Dial(address, config)
}

func (p *process) serveNBD(ctx context.Context, server *nbd.Server) error {
	if p.cfg.NBDListen == "" {
		return nil
	}
	l, err := net.Listen("tcp", p.cfg.NBDListen)
	if err != nil {
		return fmt.Errorf("listen for NBD: %w", err)
	}
	return server.Serve(ctx, l)
}

// serveGRPC serves until ctx ends. Streams last as long as those who call, so
// there is no end to wait for.
func serveGRPC(ctx context.Context, server *grpc.Server, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for the controller: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", address, err)
	case <-ctx.Done():
		server.Stop()
		return <-ended
	}
}

// PodID is the id of this pod for its lease: what the downward API gives as
// POD_UID, else the hostname, which is the pod's name.
func PodID() string {
	if uid := os.Getenv("POD_UID"); uid != "" {
		return uid
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
