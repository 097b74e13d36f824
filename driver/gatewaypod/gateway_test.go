package gatewaypod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	replicationv1 "github.com/lockstep-csi/lockstep/api/replication/v1"
	"github.com/lockstep-csi/lockstep/internal/certs"
	"github.com/lockstep-csi/lockstep/internal/loopback"
	"github.com/lockstep-csi/lockstep/journal"
	"github.com/lockstep-csi/lockstep/replication"
	"github.com/lockstep-csi/lockstep/replication/gateway"
)

// TestMain demands that no test leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience  = 30 * time.Second
	namespace = "lockstep"
)

var volume = journal.VolumeID{0xab, 1}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, met func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// enginePod is a running pod of a volume's engine.
func enginePod(of journal.VolumeID, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "engine-" + of.String(), Namespace: namespace,
			Labels: map[string]string{volumeLabel: of.String(), "app.kubernetes.io/component": "engine"}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip},
	}
}

func TestResolve(t *testing.T) {
	now := metav1.Now()
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   string // address; empty: none
		reason string
	}{
		"running":         {func(*corev1.Pod) {}, "10.0.0.7:7444", ""},
		"IPv6":            {func(p *corev1.Pod) { p.Status.PodIP = "fd00::7" }, "[fd00::7]:7444", ""},
		"pending":         {func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodPending} }, "", "is Pending"},
		"no address yet":  {func(p *corev1.Pod) { p.Status.PodIP = "" }, "", "is Running"},
		"ended":           {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, "", "is Failed"},
		"being stopped":   {func(p *corev1.Pod) { p.DeletionTimestamp = &now; p.Finalizers = []string{"x/y"} }, "", "is being stopped"},
		"another volume":  {func(p *corev1.Pod) { p.Labels[volumeLabel] = "00" }, "", ""},
		"not an engine":   {func(p *corev1.Pod) { p.Labels["app.kubernetes.io/component"] = "node" }, "", ""},
		"other namespace": {func(p *corev1.Pod) { p.Namespace = "default" }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			pod := enginePod(volume, "10.0.0.7")
			c.change(pod)
			engines, err := newPodEngines(fake.NewClientset(pod), namespace, 7444)
			must(t, err)
			if _, err := engines.Resolve(context.Background(), volume); !errors.Is(err, gateway.ErrNoEngine) || !strings.Contains(err.Error(), "not known yet") {
				t.Errorf("before the pods are known: %v", err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				engines.run(ctx)
			}()
			defer func() { cancel(); <-done }()
			until(t, "pods are known", engines.ready)
			address, err := engines.Resolve(ctx, volume)
			if address != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v; want %q", address, err, c.want)
			}
			if err != nil && (!errors.Is(err, gateway.ErrNoEngine) || !strings.Contains(err.Error(), c.reason)) {
				t.Errorf("got %v, want ErrNoEngine because it %s", err, c.reason)
			}
		})
	}
}

// In the middle of a handover there are two: the older one serves until it is
// being stopped.
func TestResolveInAHandover(t *testing.T) {
	now, later := metav1.Now(), metav1.NewTime(time.Now().Add(time.Minute))
	for name, c := range map[string]struct {
		leaves bool
		want   string
	}{"begun": {false, "10.0.0.7:7444"}, "on its way": {true, "10.0.0.8:7444"}} {
		t.Run(name, func(t *testing.T) {
			old, next := enginePod(volume, "10.0.0.7"), enginePod(volume, "10.0.0.8")
			old.CreationTimestamp, next.CreationTimestamp, next.Name = now, later, next.Name+"-b"
			if c.leaves {
				old.DeletionTimestamp, old.Finalizers = &later, []string{"x/y"}
			}
			engines, err := newPodEngines(fake.NewClientset(old, next), namespace, 7444)
			must(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				engines.run(ctx)
			}()
			defer func() { cancel(); <-done }()
			until(t, "pods are known", engines.ready)
			if address, err := engines.Resolve(ctx, volume); err != nil || address != c.want {
				t.Errorf("got %q, %v; want %q", address, err, c.want)
			}
		})
	}
}

// siteDirs is certificates of sites a and b, and of the roles of b.
func siteDirs(t *testing.T) map[string]string {
	t.Helper()
	dirs := make(map[string]string)
	between, err := certs.NewAuthority(time.Now())
	must(t, err)
	within, err := certs.NewAuthority(time.Now())
	must(t, err)
	issue := func(name string, authority *certs.Authority, req certs.Request) {
		req.Now = time.Now()
		identity, err := authority.Issue(req)
		must(t, err)
		dirs[name] = filepath.Join(t.TempDir(), "tls")
		must(t, identity.Save(dirs[name], false))
	}
	issue("a", between, certs.Request{Site: "a"})
	issue("b", between, certs.Request{Site: "b"})
	for _, role := range []certs.Role{certs.RoleController, certs.RoleEngine, certs.RoleGateway} {
		issue(string(role), within, certs.Request{Site: "b", Role: role})
	}
	return dirs
}

// echo is an engine and a controller that say who called.
type echo struct {
	replicationv1.UnimplementedReplicationServer
	peer func(context.Context) (string, error)
}

func (e *echo) Announce(ctx context.Context, _ *replicationv1.AnnounceRequest) (*replicationv1.AnnounceResponse, error) {
	peer, err := e.peer(ctx)
	return &replicationv1.AnnounceResponse{Version: uint32(len(peer))}, err
}

func (e *echo) Replicate(stream replicationv1.Replication_ReplicateServer) error {
	peer, err := e.peer(stream.Context())
	if err != nil {
		return err
	}
	return status.Error(codes.Aborted, "peer "+peer)
}

// serve runs an echo in a role and returns its address.
func serve(t *testing.T, dir string) string {
	t.Helper()
	config, err := certs.RoleServerTLS(dir, certs.RoleGateway)
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv := grpc.NewServer(replication.ServerOptions(config)...)
	replicationv1.RegisterReplicationServer(srv, &echo{peer: replication.GatewayPeer(certs.RequireRole("b", certs.RoleGateway))})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(listener) // ends with Stop
	}()
	t.Cleanup(func() { srv.Stop(); <-done })
	return listener.Addr().String()
}

// free is an address that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	address, err := loopback.Free()
	must(t, err)
	return address
}

func port(t *testing.T, address string) int {
	t.Helper()
	tcp, err := net.ResolveTCPAddr("tcp", address)
	must(t, err)
	return tcp.Port
}

// get is the status and body of an HTTP address; 0 while nothing answers.
func get(url string) (int, string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// TestRun: a gateway of a cluster, from its start to its end.
func TestRun(t *testing.T) {
	dirs := siteDirs(t)
	engine := serve(t, dirs["engine"])
	client := fake.NewClientset()
	cfg := Config{Namespace: namespace, Listen: free(t), PeerTLSDir: dirs["b"], TLSDir: dirs["gateway"], Peers: []string{"a"},
		Controller: serve(t, dirs["controller"]), EnginePort: port(t, engine), HealthAddr: free(t), MetricsAddr: free(t), RateLimit: 1 << 30, Client: client,
		Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg) }()
	until(t, "the gateway is ready", func() bool {
		code, _ := get("http://" + cfg.HealthAddr + "/readyz")
		return code == http.StatusOK
	})
	outside, err := certs.ClientTLS(dirs["a"], "b")
	must(t, err)
	conn, err := replication.Dial(cfg.Listen, outside)
	must(t, err)
	defer conn.Close()
	peer := replicationv1.NewReplicationClient(conn)
	stream := func() error {
		s, err := peer.Replicate(ctx)
		must(t, err)
		must(t, s.Send(&replicationv1.SourceMessage{Message: &replicationv1.SourceMessage_Hello{Hello: &replicationv1.Hello{Volume: volume[:]}}}))
		_, err = s.Recv()
		return err
	}
	if resp, err := peer.Announce(ctx, &replicationv1.AnnounceRequest{}); err != nil || resp.GetVersion() != 1 {
		t.Errorf("controller answers %v, %v; want a peer's name of one byte", resp, err)
	}
	if err := stream(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no engine") {
		t.Errorf("without a pod: %v", err)
	}
	_, err = client.CoreV1().Pods(namespace).Create(ctx, enginePod(volume, "127.0.0.1"), metav1.CreateOptions{})
	must(t, err)
	until(t, "the new pod is found", func() bool { return status.Code(stream()) == codes.Aborted })
	if err := stream(); !strings.Contains(err.Error(), "peer a") {
		t.Errorf("engine answers %v, want that its peer is a", err)
	}
	must(t, client.CoreV1().Pods(namespace).Delete(ctx, "engine-"+volume.String(), metav1.DeleteOptions{}))
	until(t, "the pod is gone", func() bool { return status.Code(stream()) == codes.Unavailable })
	if code, _ := get("http://" + cfg.HealthAddr + "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d", code)
	}
	if _, body := get("http://" + cfg.MetricsAddr + "/metrics"); !strings.Contains(body, `lockstep_gateway_announcements_total{code="OK",peer="a"} 1`) {
		t.Errorf("metrics lack the announcement:\n%s", body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

// TestReadiness: not before the engines are known, and not once it stops.
func TestReadiness(t *testing.T) {
	dirs := siteDirs(t)
	p, err := open(Config{Namespace: namespace, Listen: "127.0.0.1:0", PeerTLSDir: dirs["b"], TLSDir: dirs["gateway"],
		Controller: "127.0.0.1:1", EnginePort: 1, Client: fake.NewClientset(), Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	defer p.controller.Close()
	ctx, cancel := context.WithCancel(context.Background())
	h := p.health(ctx)
	ready := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code
	}
	if code := ready(); code != http.StatusServiceUnavailable {
		t.Errorf("ready before the engines are known: %d", code)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.engines.run(ctx)
	}()
	until(t, "ready", func() bool { return ready() == http.StatusOK })
	cancel()
	<-done
	if code := ready(); code != http.StatusServiceUnavailable {
		t.Errorf("ready while it stops: %d", code)
	}
}

func TestRefusesWrongSetup(t *testing.T) {
	dirs := siteDirs(t)
	good := Config{Namespace: namespace, Listen: "127.0.0.1:0", PeerTLSDir: dirs["b"], TLSDir: dirs["gateway"],
		Controller: "127.0.0.1:1", EnginePort: 1, Client: fake.NewClientset(), Log: slog.New(slog.DiscardHandler)}
	if p, err := open(good); err != nil {
		t.Fatal(err)
	} else {
		must(t, p.controller.Close())
	}
	for name, c := range map[string]struct {
		spoil func(*Config)
		want  string
	}{
		"one address":      {func(c *Config) { c.HealthAddr, c.MetricsAddr = ":1", ":1" }, "must differ"},
		"namespace":        {func(c *Config) { c.Namespace = "" }, "namespace"},
		"listen":           {func(c *Config) { c.Listen = "" }, "Listen"},
		"controller":       {func(c *Config) { c.Controller = "" }, "Controller"},
		"directory":        {func(c *Config) { c.TLSDir = "" }, "TLSDir"},
		"port":             {func(c *Config) { c.EnginePort = 70000 }, "70000"},
		"streams":          {func(c *Config) { c.MaxStreams = -1 }, "MaxStreams"},
		"rate":             {func(c *Config) { c.RateLimit = -1 }, "RateLimit"},
		"client":           {func(c *Config) { c.Client = nil }, "Client"},
		"peer name":        {func(c *Config) { c.Peers = []string{"A"} }, "peer"},
		"itself as peer":   {func(c *Config) { c.Peers = []string{"b"} }, "itself"},
		"other site":       {func(c *Config) { c.PeerTLSDir = dirs["a"] }, "certificate of site a"},
		"other role":       {func(c *Config) { c.TLSDir = dirs["engine"] }, "engine of site b"},
		"a site as role":   {func(c *Config) { c.TLSDir = dirs["b"] }, "no role"},
		"a role as site":   {func(c *Config) { c.PeerTLSDir = dirs["gateway"] }, "no site"},
		"nothing is there": {func(c *Config) { c.TLSDir = t.TempDir() }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			c.spoil(&bad)
			if err := Run(context.Background(), bad); err == nil || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
		})
	}
}
