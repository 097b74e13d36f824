package enginepod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/driver/probes"
	"github.com/lockstep-csi/lockstep/engine/control"
	"github.com/lockstep-csi/lockstep/engine/frontend/nbd"
	"github.com/lockstep-csi/lockstep/engine/lease"
	"github.com/lockstep-csi/lockstep/engine/lease/leaseapi"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/grpcstop"
	"github.com/lockstep-csi/lockstep/internal/memory"
	"github.com/lockstep-csi/lockstep/internal/rpc"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// ProcessConfig is what the engine role needs; see docs/kubernetes.md, "Flags".
type ProcessConfig struct {
	Volume       journal.VolumeID
	StoreDir     string // where the backing volume is mounted
	JournalDir   string // where the journal's own backing volume is mounted; empty: it has none
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
	// HandoverWait is how long an engine that has a device and is told to end
	// goes on for the sake of I/O until another process waits for its place. 0:
	// it ends at once.
	HandoverWait time.Duration
	// NBDListen is where views and the live volume are shown to tools; empty:
	// nowhere. Whoever can connect can write to a volume that is not attached.
	NBDListen   string
	MetricsAddr string
	HealthAddr  string
	Version     string
	IndexMemory int64         // bytes for the volume's index; 0: the journal's default
	ScrubEvery  time.Duration // in which the store is read once to find damage; 0: the journal's default
	Log         *slog.Logger  // nil: slog.Default()
}

// Validate reports the first field that cannot be used; it has no effects.
func (c *ProcessConfig) Validate() error {
	switch {
	case c.Volume.IsZero():
		return errors.New("engine configuration: Volume is missing")
	case !filepath.IsAbs(c.StoreDir):
		return fmt.Errorf("engine configuration: store directory %q is not an absolute path", c.StoreDir)
	case c.JournalDir != "" && !filepath.IsAbs(c.JournalDir):
		return fmt.Errorf("engine configuration: journal directory %q is not an absolute path", c.JournalDir)
	case c.Listen == "" || c.HolderSocket == "" || c.TLSDir == "":
		return errors.New("engine configuration: Listen, HolderSocket and TLSDir are required")
	case c.Lease != "" && c.LeaseID == "":
		return errors.New("engine configuration: a lease needs the pod's id")
	case c.HandoverWait < 0:
		return fmt.Errorf("engine configuration: handover wait %v is negative", c.HandoverWait)
	case c.IndexMemory != 0 && c.IndexMemory < journal.MinIndexMemory:
		return fmt.Errorf("engine configuration: %d bytes for the index, want at least %d", c.IndexMemory, int64(journal.MinIndexMemory))
	case c.ScrubEvery != 0 && c.ScrubEvery < journal.MinScrubEvery:
		return fmt.Errorf("engine configuration: a scrub every %s, want at least %s", c.ScrubEvery, journal.MinScrubEvery)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return nil
}

// Run runs an engine: it waits for its place, and then serves until ctx ends,
// its lease is lost, or its journal fails. On its way out it makes everything
// durable and leaves its device to the next engine; see ProcessConfig for
// whether it waits for that one.
func Run(ctx context.Context, cfg ProcessConfig) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	p := &process{cfg: cfg}
	running, alive := errgroup.WithContext(context.WithoutCancel(ctx))
	running.Go(func() error {
		return probes.Run(alive, probes.Config{MetricsAddr: cfg.MetricsAddr, HealthAddr: cfg.HealthAddr, Metrics: metricsOf(p.open), Ready: p.ready})
	})
	running.Go(func() error { return p.untilToLeave(ctx, alive) })
	var served error
	running.Go(func() error {
		if served = p.serveInTurn(alive); served != nil {
			return served
		}
		return errLeaves
	})
	if err := running.Wait(); !errors.Is(err, errLeaves) && !errors.Is(err, served) {
		return errors.Join(err, served)
	}
	return served
}

// errLeaves ends what runs beside the engine.
var errLeaves = errors.New("engine leaves")

// process is a running engine.
type process struct {
	cfg ProcessConfig

	mu    sync.Mutex
	place *place // guarded by mu; nil while it is waited for
	pod   *Pod   // guarded by mu; nil while the backing volume is not open
}

// open is the engine once it is open, or nil.
func (p *process) open() *Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pod
}

// ready is Pod.Ready, and an error before there is one.
func (p *process) ready() error {
	if pod := p.open(); pod != nil {
		return pod.Ready()
	}
	return fmt.Errorf("volume %s waits for its lease, or for the engine before this one to end", p.cfg.Volume)
}

// leaveEvery is the time between two looks for who waits to be the next.
const leaveEvery = 10 * time.Millisecond

// untilToLeave returns errLeaves when the engine is to end after it was told
// to, and nil when it has ended before.
func (p *process) untilToLeave(told, alive context.Context) error {
	select {
	case <-told.Done():
	case <-alive.Done():
		return nil
	}
	p.mu.Lock()
	pod, place := p.pod, p.place
	p.mu.Unlock()
	if pod == nil || p.cfg.HandoverWait == 0 || !pod.wantsDevice() {
		return errLeaves
	}
	p.cfg.Log.Info("engine was told to end, and serves on until its successor is there", "volume", p.cfg.Volume, "longest", p.cfg.HandoverWait)
	pod.Leave()
	over := time.NewTimer(p.cfg.HandoverWait)
	defer over.Stop()
	tick := time.NewTicker(leaveEvery)
	defer tick.Stop()
	for !place.awaited() {
		select {
		case <-tick.C:
		case <-over.C:
			p.cfg.Log.Warn("no successor came: the device waits for the next engine", "volume", p.cfg.Volume)
			return errLeaves
		case <-alive.Done():
			return nil
		}
	}
	return errLeaves
}

// serveInTurn serves once no other process of this machine does, and holds the
// lease, if there is one, meanwhile.
func (p *process) serveInTurn(ctx context.Context) error {
	place, err := takePlace(ctx, p.cfg.StoreDir)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	files, release, err := keepLease(ctx, p.cfg, end)
	if err != nil {
		return errors.Join(err, place.leave())
	}
	p.cfg.Log.Info("engine has its place", "volume", p.cfg.Volume)
	p.mu.Lock()
	p.place = place
	p.mu.Unlock()
	err = p.serve(ctx, files)
	if cause := context.Cause(ctx); errors.Is(cause, lease.ErrLost) {
		err = errors.Join(cause, err)
	}
	// The lease goes before the place: whoever has the place finds it free.
	release()
	err = errors.Join(err, place.leave())
	p.cfg.Log.Info("engine has left its place", "volume", p.cfg.Volume)
	return err
}

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
	devices := HolderDevices{Volume: p.cfg.Volume, Socket: p.cfg.HolderSocket, Log: p.cfg.Log}
	pod, err := Open(Config{
		Volume: p.cfg.Volume, Dir: p.cfg.StoreDir, JournalDir: p.cfg.JournalDir, FS: files, IndexMemory: p.cfg.IndexMemory, ScrubEvery: p.cfg.ScrubEvery, CacheBytes: memory.CacheBytes(), Version: p.cfg.Version, Log: p.cfg.Log, Exports: shown, Site: site,
		Devices: devices, Boot: bootID(p.cfg.Log), Disk: diskID(cmp.Or(p.cfg.JournalDir, p.cfg.StoreDir), p.cfg.Log),
		DialEngine: p.dialEngine, DialPeer: p.dialPeer, Peer: replication.GatewayPeer(certs.RequireRole(site, certs.RoleGateway)),
	})
	if err != nil {
		return err
	}
	options := append(replication.ServerOptions(inside), grpc.ChainUnaryInterceptor(mayCall(site)), grpc.ChainStreamInterceptor(mayStream(site)))
	server := grpc.NewServer(options...)
	control.NewServer(pod, clock.Wall{}).Register(server)
	pod.RegisterStreams(server)
	p.mu.Lock()
	p.pod = pod
	p.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serveGRPC(ctx, server, p.cfg.Listen) })
	group.Go(func() error { return p.serveNBD(ctx, shown) })
	group.Go(func() error {
		devices.Report(ctx, pod)
		return nil
	})
	group.Go(func() error {
		select {
		case err := <-pod.Fatal():
			return err
		case <-ctx.Done():
			return nil
		}
	})
	err = group.Wait()
	p.cfg.Log.Info("engine closes its volume", "volume", p.cfg.Volume)
	return errors.Join(err, pod.Close())
}

func (p *process) dialEngine(address string) (*grpc.ClientConn, error) {
	config, err := certs.RoleClientTLS(p.cfg.TLSDir, certs.RoleEngine)
	if err != nil {
		return nil, err
	}
	return rpc.Dial("passthrough:"+address, config)
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
		return grpcstop.Ended(<-ended)
	}
}

// bootFile has another content each time that a kernel starts (random(4)).
const bootFile = "/proc/sys/kernel/random/boot_id"

// bootID is Config.Boot of this machine.
func bootID(log *slog.Logger) string {
	raw, err := os.ReadFile(bootFile)
	if err != nil {
		log.Warn("this machine is not told from others: a device that the volume leaves behind is noted only once it has another one", "error", err)
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// diskSequence has the number that the kernel gave to a disk when it was attached, which no
// other has until the next boot (Linux 5.15, Documentation/ABI/stable/sysfs-block).
const diskSequence = "diskseq"

// diskID is Config.Disk of the file system that has a directory; empty where that is on no
// disk of this machine, as a network's, or does not tell on which, as btrfs.
func diskID(dir string, log *slog.Logger) string {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		log.Warn("it is not known which disk the journal is on", "directory", dir, "error", err)
		return ""
	}
	device := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	for _, file := range []string{device + diskSequence, device + "../" + diskSequence} { // of a disk; of a partition's
		if raw, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(raw))
		}
	}
	return ""
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
