package main

import (
	"context"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// gatewayShell returns a shell whose gateway role keeps what it was given.
func gatewayShell(t *testing.T) (*shell, *gatewayConfig) {
	keepLoggers(t)
	got := &gatewayConfig{}
	s := newShell("/run/lockstep/admin.sock")
	s.roles.gateway = func(_ context.Context, config gatewayConfig) error {
		*got = config
		return nil
	}
	return s, got
}

func TestGatewayFlagsTakeEffect(t *testing.T) {
	s, got := gatewayShell(t)
	s.must(t, "gateway", "--namespace", "storage", "--kubeconfig", "/root/kube", "--listen", "10.0.0.1:7", "--peer-tls-dir", "/etc/x/../peer",
		"--tls-dir", "/etc/tls", "--peer", "a", "--peer", "c", "--controller", "ctl:7444", "--engine-port", "8", "--health-addr", ":1", "--metrics-addr", ":2", "--max-streams", "9",
		"--rate-limit", "1Gi")
	want := gatewayConfig{Namespace: "storage", Kubeconfig: "/root/kube", Listen: "10.0.0.1:7", PeerTLSDir: "/etc/peer", TLSDir: "/etc/tls",
		Peers: []string{"a", "c"}, Controller: "ctl:7444", EnginePort: 8, HealthAddr: ":1", MetricsAddr: ":2", MaxStreams: 9, RateLimit: 1 << 30}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v\nwant %+v", *got, want)
	}
}

func TestGatewayDefaults(t *testing.T) {
	s, got := gatewayShell(t)
	s.variables[namespaceVariable] = "lockstep"
	s.must(t, strings.Fields("gateway --controller ctl:7444 --peer-tls-dir /p --tls-dir /t")...)
	want := gatewayConfig{Namespace: "lockstep", Listen: ":7443", PeerTLSDir: "/p", TLSDir: "/t", Controller: "ctl:7444", EnginePort: 7443}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v\nwant %+v", *got, want)
	}
}

func TestGatewayRefuses(t *testing.T) {
	const base = "gateway --namespace n --controller ctl:7444 --peer-tls-dir /p --tls-dir /t"
	for _, c := range []struct{ args, says string }{
		{"gateway", "--controller is missing"},
		{strings.Replace(base, "--namespace n", "", 1), "--namespace is missing"},
		{base + " --peer A", "invalid site name"},
		{base + " --listen 7443", "want host:port"},
		{base + " --controller :7444", "the host is missing"},
		{base + " --health-addr x", "want host:port"},
		{base + " --health-addr :1 --metrics-addr :1", "must differ"},
		{base + " --engine-port 0", "must not be 0"},
		{base + " --engine-port 70000", "engine-port"},
		{base + " --max-streams -1", "must not be negative"},
		{base + " --rate-limit 1.5", "want a whole number"},
		{base + " --rate-limit x", "want a whole number of bytes"},
		{base + " more", "takes no arguments"},
	} {
		t.Run(c.says, func(t *testing.T) {
			s, got := gatewayShell(t)
			result := s.run(t, strings.Fields(c.args)...)
			if result.exit != exitUsage || !strings.Contains(result.stderr, c.says) {
				t.Errorf("exit %d: %q, want misuse and %q in it", result.exit, result.stderr, c.says)
			}
			if got.Listen != "" {
				t.Error("the gateway was started")
			}
		})
	}
}

// TestGatewayOutsideACluster: the real role fails before it does anything.
func TestGatewayOutsideACluster(t *testing.T) {
	s := newShell("/run/lockstep/admin.sock")
	keepLoggers(t)
	missing := filepath.Join(t.TempDir(), "kubeconfig")
	result := s.run(t, append(strings.Fields("gateway --namespace n --controller ctl:7444 --peer-tls-dir /p --tls-dir /t --kubeconfig"), missing)...)
	if result.exit != exitFailed || !strings.Contains(result.stderr, "find the cluster") {
		t.Errorf("exit %d: %q", result.exit, result.stderr)
	}
}
