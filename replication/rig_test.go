package replication

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/clock"
	"github.com/lockstep-csi/lockstep/internal/loopback"
	"github.com/lockstep-csi/lockstep/journal"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// rig is two sites with real certificates and a real gateway on loopback.
type rig struct {
	t       *testing.T
	sites   map[string]*modelSite
	tlsDirs map[string]string
}

func newRig(t *testing.T, volumes ...journal.VolumeID) *rig {
	t.Helper()
	histories := map[journal.VolumeID]*history{}
	for _, v := range volumes {
		histories[v] = newHistory()
	}
	r := &rig{t: t, sites: map[string]*modelSite{}, tlsDirs: map[string]string{}}
	authority, err := certs.NewAuthority(time.Now())
	must(t, err)
	for _, name := range []string{"a", "b"} {
		r.sites[name] = newModelSite(name, histories)
		identity, err := authority.Issue(certs.Request{Site: name, Now: time.Now()})
		must(t, err)
		r.tlsDirs[name] = t.TempDir()
		must(t, identity.Save(r.tlsDirs[name], true))
	}
	r.sites["a"].lead(1, volumes...)
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// gateway is a site's running server.
type gateway struct {
	address string
	server  *Server
	stop    func() // as when the process dies: connections are cut
}

// rigSoftware is the version that the rig's sites are of.
const rigSoftware = "v1.2.3"

// serve starts a site's gateway; address "" picks a free port.
func (r *rig) serve(site, address string) *gateway {
	r.t.Helper()
	config, err := certs.ServerTLS(r.tlsDirs[site])
	must(r.t, err)
	if address == "" {
		address = net.JoinHostPort(loopback.Host(), "0")
	}
	listener, err := net.Listen("tcp", address)
	must(r.t, err)
	server, err := NewServer(ServerConfig{Site: site, Groups: r.sites[site], Stores: r.sites[site],
		Peer: TLSPeer(certs.SiteFromCert), CreditBytes: 64 << 10, Software: rigSoftware, Log: quiet()})
	must(r.t, err)
	g := grpc.NewServer(ServerOptions(config)...)
	server.Register(g)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(listener) // ends with Stop
	}()
	stopped := false
	gw := &gateway{address: listener.Addr().String(), server: server}
	gw.stop = func() {
		if stopped {
			return
		}
		stopped = true
		g.Stop()
		<-done
		if err := server.Close(); err != nil {
			r.t.Errorf("close server: %v", err)
		}
	}
	r.t.Cleanup(gw.stop)
	return gw
}

// dial connects one site to the gateway of another.
func (r *rig) dial(from, to, address string) *grpc.ClientConn {
	r.t.Helper()
	config, err := certs.ClientTLS(r.tlsDirs[from], to)
	must(r.t, err)
	return r.dialWith(address, config)
}

func (r *rig) dialWith(address string, config *tls.Config) *grpc.ClientConn {
	r.t.Helper()
	conn, err := Dial(address, config)
	must(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// running is a Sender at work.
type running struct {
	*Sender
	stop func() error // ends Run and returns its error
	done chan error
}

func (r *rig) send(from, to, address string, change func(*SenderConfig)) *running {
	r.t.Helper()
	cfg := SenderConfig{Group: modelGroup, Peer: to, Conn: r.dial(from, to, address), Sources: r.sites[from], Groups: r.sites[from],
		Clock: clock.Wall{}, Random: rand.Float64, Heartbeat: 50 * time.Millisecond, Log: quiet()}
	if change != nil {
		change(&cfg)
	}
	sender, err := NewSender(cfg)
	must(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	run := &running{Sender: sender, done: make(chan error, 1)}
	go func() { run.done <- sender.Run(ctx) }()
	ended := false
	run.stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-run.done
	}
	r.t.Cleanup(func() { _ = run.stop() })
	return run
}

// equal waits until a site's durable store is exactly the other's.
func (r *rig) equal(replica, primary string, volume journal.VolumeID) {
	r.t.Helper()
	want := r.sites[primary].store(volume)
	r.until(func() (bool, <-chan struct{}) {
		got := r.sites[replica].store(volume)
		if got == nil {
			return false, nil
		}
		got.mu.Lock()
		defer got.mu.Unlock()
		want.mu.Lock()
		defer want.mu.Unlock()
		return got.sum == want.sum && got.durable == want.tip().Seq && string(got.data) == string(want.data), got.changed
	})
	must(r.t, r.sites[replica].store(volume).verify())
}

// advances waits until a replica's durable position has moved on by so many
// records.
func (r *rig) advances(site string, volume journal.VolumeID, records journal.Seq) {
	r.t.Helper()
	var from *modelStore
	var start journal.Seq
	r.until(func() (bool, <-chan struct{}) {
		store := r.sites[site].store(volume)
		if store == nil {
			return false, nil
		}
		now := store.Durable().Seq
		if store != from {
			from, start = store, now
		}
		return now >= start+records, nil
	})
}

// until waits for a condition. It is looked at again when the channel that
// comes with it is closed, or after a moment where there is none.
func (r *rig) until(met func() (bool, <-chan struct{})) {
	r.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, changed := met()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("condition not met within %v", patience)
		}
	}
}
