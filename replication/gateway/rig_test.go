package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/loopback"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
)

// TestMain demands that no test leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience is how long a test waits for what must happen.
	patience  = 30 * time.Second
	testGroup = "shop"
)

var volumeOne, volumeTwo = journal.VolumeID{1}, journal.VolumeID{2}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// rig is peers, sites a and c, and the processes of site b with certificates of two
// authorities, on loopback.
type rig struct {
	t       *testing.T
	dirs    map[string]string // of certificates: "site a" to "site c", and b's roles
	engines *directory
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dirs: make(map[string]string), engines: &directory{addresses: make(map[journal.VolumeID]string)}}
	between, within := newAuthority(t), newAuthority(t)
	for _, site := range []string{"a", "b", "c"} {
		r.issue("site "+site, between, certs.Request{Site: site})
	}
	for _, role := range []certs.Role{certs.RoleController, certs.RoleEngine, certs.RoleGateway} {
		r.issue(string(role), within, certs.Request{Site: "b", Role: role})
	}
	return r
}

func newAuthority(t *testing.T) *certs.Authority {
	t.Helper()
	authority, err := certs.NewAuthority(time.Now())
	must(t, err)
	return authority
}

func (r *rig) issue(name string, authority *certs.Authority, req certs.Request) {
	r.t.Helper()
	req.Now = time.Now()
	identity, err := authority.Issue(req)
	must(r.t, err)
	r.dirs[name] = filepath.Join(r.t.TempDir(), "tls")
	must(r.t, identity.Save(r.dirs[name], true))
}

// tls unwraps a configuration of package certs.
func (r *rig) tls(config *tls.Config, err error) *tls.Config {
	r.t.Helper()
	must(r.t, err)
	return config
}

// directory is the engines by volume.
type directory struct {
	mu        sync.Mutex
	addresses map[journal.VolumeID]string
}

func (d *directory) Resolve(_ context.Context, volume journal.VolumeID) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if address := d.addresses[volume]; address != "" {
		return address, nil
	}
	return "", ErrNoEngine
}

func (d *directory) set(volume journal.VolumeID, address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addresses[volume] = address
}

// process is a running grpc.Server.
type process struct {
	address string
	stop    func() // as when it dies: connections are cut
}

// start serves register's services; address "" picks a free port.
func (r *rig) start(address string, options []grpc.ServerOption, register func(*grpc.Server), closed func()) *process {
	r.t.Helper()
	if address == "" {
		address = net.JoinHostPort(loopback.Host(), "0")
	}
	listener, err := net.Listen("tcp", address)
	must(r.t, err)
	srv := grpc.NewServer(options...)
	register(srv)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(listener) // ends with Stop
	}()
	var once sync.Once
	p := &process{address: listener.Addr().String()}
	p.stop = func() {
		once.Do(func() {
			srv.Stop()
			<-done
			closed()
		})
	}
	r.t.Cleanup(p.stop)
	return p
}

// inside are the options of a server of site b that the gateway calls.
func (r *rig) inside(role string) []grpc.ServerOption {
	return replication.ServerOptions(r.tls(certs.RoleServerTLS(r.dirs[role], certs.RoleController, certs.RoleGateway)))
}

// behindGateway reads the peer of a call to site b's controller or engine.
func behindGateway() func(context.Context) (string, error) {
	return replication.GatewayPeer(certs.RequireRole("b", certs.RoleGateway))
}

// running is a Gateway that serves.
type running struct {
	*process
	*Gateway
}

// gateway starts site b's gateway, which sites a and c may connect to, in front of a controller.
func (r *rig) gateway(address, controller string, change func(*Config)) *running {
	r.t.Helper()
	engine := r.tls(certs.RoleClientTLS(r.dirs["gateway"], certs.RoleEngine))
	conn, err := Dial(controller, r.tls(certs.RoleClientTLS(r.dirs["gateway"], certs.RoleController)))
	must(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	cfg := Config{Site: "b", Engines: r.engines, DialEngine: func(address string) (*grpc.ClientConn, error) { return Dial(address, engine) },
		Controller: conn, Peer: replication.TLSPeer(certs.SiteFromCert), Clock: clock.Wall{}, Log: quiet()}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	must(r.t, err)
	return &running{r.start(address, ServerOptions(r.tls(certs.ServerTLS(r.dirs["site b"], "a", "c"))), g.Register, g.Close), g}
}

// peer connects site a to b's gateway.
func (r *rig) peer(address string) *grpc.ClientConn { return r.peerOf("a", address) }

func (r *rig) peerOf(site, address string) *grpc.ClientConn {
	r.t.Helper()
	conn, err := replication.Dial(address, r.tls(certs.ClientTLS(r.dirs["site "+site], "b")))
	must(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// scripted is an engine or controller that does what a test says.
type scripted struct {
	replicationv1.UnimplementedReplicationServer
	onAnnounce  func(context.Context, *replicationv1.AnnounceRequest) (*replicationv1.AnnounceResponse, error)
	onReplicate func(replicationv1.Replication_ReplicateServer) error
	onRepair    func(context.Context, *replicationv1.RepairRequest) (*replicationv1.RepairResponse, error)
}

func (s *scripted) Announce(ctx context.Context, req *replicationv1.AnnounceRequest) (*replicationv1.AnnounceResponse, error) {
	return s.onAnnounce(ctx, req)
}

func (s *scripted) Replicate(stream replicationv1.Replication_ReplicateServer) error {
	return s.onReplicate(stream)
}

func (s *scripted) Repair(ctx context.Context, req *replicationv1.RepairRequest) (*replicationv1.RepairResponse, error) {
	return s.onRepair(ctx, req)
}

// script starts a scripted process in a role.
func (r *rig) script(role string, s *scripted) *process {
	r.t.Helper()
	return r.start("", r.inside(role), func(g *grpc.Server) { replicationv1.RegisterReplicationServer(g, s) }, func() {})
}

// nobody is an address at which nobody listens.
func (r *rig) nobody() string {
	r.t.Helper()
	address, err := loopback.Free()
	must(r.t, err)
	return address
}

// within is a context that ends a test which hangs.
func (r *rig) within() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

// until waits for a condition.
func (r *rig) until(what string, met func() bool) {
	r.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func hello(volume journal.VolumeID) *replicationv1.SourceMessage {
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{
		Version: replication.ProtocolVersion, Group: testGroup, Term: 1, Volume: volume[:]}}}
}

func chunk(number uint64, bytes int) *replicationv1.SourceMessage {
	data := make([]byte, bytes)
	_, _ = rand.Read(data) // never fails
	return &replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Chunk{Chunk: &replicationv1.Chunk{
		Number: number, RawBytes: int64(bytes), Data: data}}}
}

func jitter() float64 { return mathrand.Float64() }

func buffer(b []byte) mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(b)} }
