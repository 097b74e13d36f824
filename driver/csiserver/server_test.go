package csiserver

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a controller of which a call can be held and can panic.
type service struct {
	csi.UnimplementedControllerServer
	entered, leave chan struct{}
}

func (s *service) CreateVolume(context.Context, *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if s.entered != nil {
		s.entered <- struct{}{}
		<-s.leave
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: "v"}}, nil
}

func (s *service) DeleteVolume(context.Context, *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	panic("broken invariant")
}

type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// running is a server with a client.
type running struct {
	t      *testing.T
	cfg    Config
	log    *buffer
	client *grpc.ClientConn
	stop   func() error // ends the server and returns what Serve did
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	log := &buffer{}
	if cfg.Endpoint == "" {
		cfg.Endpoint = "unix://" + filepath.Join(t.TempDir(), "csi.sock")
	}
	cfg.Version = "1.2.3"
	cfg.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	listener, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, cfg, listener) }()
	client, err := grpc.NewClient(cfg.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	t.Cleanup(func() {
		if err := errors.Join(client.Close(), stop()); err != nil {
			t.Error(err)
		}
	})
	return &running{t: t, cfg: cfg, log: log, client: client, stop: stop}
}

func TestIdentity(t *testing.T) {
	ctx := context.Background()
	var missing error
	r := start(t, Config{Ready: func(context.Context) error { return missing }})
	identity := csi.NewIdentityClient(r.client)
	info, err := identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	if err != nil || info.GetName() != DriverName || info.GetVendorVersion() != "1.2.3" {
		t.Errorf("info is %v, %v", info, err)
	}
	for _, missing = range []error{errors.New("no /dev/fuse"), nil} {
		got, err := identity.Probe(ctx, &csi.ProbeRequest{})
		if err != nil || got.GetReady().GetValue() != (missing == nil) {
			t.Errorf("with %v missing Probe answers %v, %v", missing, got, err)
		}
	}
	capabilities, err := identity.GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{})
	if err != nil || len(capabilities.GetCapabilities()) != 5 {
		t.Errorf("capabilities are %v, %v", capabilities, err)
	}
	// A service that was not given is not there.
	_, err = csi.NewNodeClient(r.client).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("node service: %v, want Unimplemented", err)
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	r := start(t, Config{Controller: &service{}})
	_, err := csi.NewControllerClient(r.client).CreateVolume(context.Background(), &csi.CreateVolumeRequest{
		Name: "data", Secrets: map[string]string{"key": secret}, Parameters: map[string]string{"x": secret},
		VolumeCapabilities: []*csi.VolumeCapability{{AccessType: &csi.VolumeCapability_Mount{
			Mount: &csi.VolumeCapability_MountVolume{MountFlags: []string{secret}},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	log := r.log.String()
	if strings.Contains(log, secret) {
		t.Errorf("the log has the secret: %s", log)
	}
	for _, want := range []string{"method=CreateVolume", "name=data", "code=OK", "duration="} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s: %s", want, log)
		}
	}
}

func TestPanicEndsOneCall(t *testing.T) {
	ctx := context.Background()
	r := start(t, Config{Controller: &service{}})
	client := csi.NewControllerClient(r.client)
	_, err := client.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: "v"})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "invariant") {
		t.Errorf("a panic became %v, want Internal without its reason", err)
	}
	if log := r.log.String(); !strings.Contains(log, "broken invariant") || !strings.Contains(log, "volume=v") {
		t.Errorf("log is %s", log)
	}
	if _, err := client.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: "data"}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// TestStopLetsCallsEnd stops the server while a call is in progress.
func TestStopLetsCallsEnd(t *testing.T) {
	s := &service{entered: make(chan struct{}), leave: make(chan struct{})}
	r := start(t, Config{Controller: s})
	called := make(chan error)
	go func() {
		_, err := csi.NewControllerClient(r.client).CreateVolume(context.Background(), &csi.CreateVolumeRequest{Name: "data"})
		called <- err
	}()
	<-s.entered
	stopped := make(chan error)
	go func() { stopped <- r.stop() }()
	close(s.leave)
	if err := <-called; err != nil {
		t.Errorf("the call in progress ended with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("the server ended with %v", err)
	}
	path, _ := r.cfg.SocketPath()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	t.Run("replaces what a killed process left", func(t *testing.T) {
		path := filepath.Join(dir, "stale.sock")
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		if err := stale.Close(); err != nil {
			t.Fatal(err)
		}
		r := start(t, Config{Endpoint: path})
		if _, err := csi.NewIdentityClient(dial(t, path)).Probe(context.Background(), &csi.ProbeRequest{}); err != nil {
			t.Error(err)
		}
		if _, err := Listen(r.cfg); err == nil {
			t.Error("a second server took the socket of one that runs")
		}
	})
	t.Run("keeps what is no socket", func(t *testing.T) {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(Config{Endpoint: path, Version: "1"}); err == nil {
			t.Error("a file was taken for a socket")
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != "content" {
			t.Errorf("the file is %q, %v", got, err)
		}
	})
	for _, endpoint := range []string{"", "unix://", "tcp://localhost:1", "http://x"} {
		if _, err := Listen(Config{Endpoint: endpoint, Version: "1"}); err == nil {
			t.Errorf("endpoint %q was accepted", endpoint)
		}
	}
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	client, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// TestServeThatIsEndedAtOnce: whoever ends it before it has begun gets no error.
func TestServeThatIsEndedAtOnce(t *testing.T) {
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "csi.sock"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Serve(ctx, Config{Version: "test"}, l); err != nil {
			t.Fatal(err)
		}
	}
}
