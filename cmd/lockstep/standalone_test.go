package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/lockstep-csi/lockstep/cmd/roleflags"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/journal"
)

// keepLoggers puts the process's loggers back when the test ends.
func keepLoggers(t *testing.T) {
	previous := slog.Default()
	t.Cleanup(func() {
		slog.SetDefault(previous)
		klog.ClearLogger()
	})
}

// recordingShell returns a shell whose standalone role keeps what it was given.
func recordingShell(t *testing.T) (*shell, *standaloneConfig) {
	keepLoggers(t)
	got := &standaloneConfig{}
	s := newShell("/run/lockstep/admin.sock")
	s.roles.standalone = func(_ context.Context, config standaloneConfig) error {
		*got = config
		slog.Info("started", "site", config.Site)
		slog.Debug("details")
		return nil
	}
	return s, got
}

func TestStandaloneFlagsTakeEffect(t *testing.T) {
	tls := t.TempDir()
	s, got := recordingShell(t)
	s.must(t, "certs", "--out", tls, "--site", "a=127.0.0.1")
	s.must(t, "standalone", "--site", "a", "--root", "/srv/../srv/lockstep", "--journal-root", "/fast/", "--csi-endpoint", "unix:/run/csi.sock", "--node-id", "node-1",
		"--admin", "/run/a.sock", "--listen", ":7443", "--tls-dir", filepath.Join(tls, "a"), "--peer", "b=10.0.0.2:7443", "--peer", "c=[::1]:7443",
		"--metrics-addr", "127.0.0.1:9090", "--rate-limit", "20Mi", "--compress=false", "--index-memory", "64Mi", "--scrub-every", "48h", "--fuse-transport", "io-uring")
	want := standaloneConfig{
		Site: "a", Root: "/srv/lockstep", JournalRoot: "/fast", CSIEndpoint: "unix:///run/csi.sock", NodeID: "node-1", Admin: "/run/a.sock", Listen: ":7443",
		TLSDir: filepath.Join(tls, "a"), Peers: map[string]string{"b": "10.0.0.2:7443", "c": "[::1]:7443"}, MetricsAddr: "127.0.0.1:9090",
		RateLimit: 20 << 20, IndexMemory: 64 << 20, ScrubEvery: 48 * time.Hour, Transport: fuse.TransportRing,
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v\nwant %+v", *got, want)
	}
}

func TestStandaloneDefaults(t *testing.T) {
	s, got := recordingShell(t)
	s.variables[adminVariable] = "/run/other.sock"
	s.must(t, "standalone", "--site", "a", "--root", "x", "--csi-endpoint", "/run/csi.sock")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := standaloneConfig{Site: "a", Root: filepath.Join(here, "x"), CSIEndpoint: "unix:///run/csi.sock", NodeID: name, Admin: "/run/other.sock", Peers: map[string]string{}, Compress: true, IndexMemory: journal.DefaultIndexMemory, ScrubEvery: journal.DefaultScrubEvery, Transport: fuse.TransportDevice}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got %+v\nwant %+v", *got, want)
	}
}

func TestStandaloneRefuses(t *testing.T) {
	tls := t.TempDir()
	s, got := recordingShell(t)
	s.must(t, "certs", "--out", tls, "--site", "b")
	of := filepath.Join(tls, "b")
	base := "standalone --site a --root /srv --csi-endpoint unix:///run/csi.sock"
	cases := []struct {
		args string
		exit int
		says string
	}{
		{"standalone", exitUsage, "--csi-endpoint is missing"},
		{base + " --site A", exitUsage, "invalid site name"},
		{base + " --node-id=", exitUsage, "--node-id is missing"},
		{base + " --node-id " + strings.Repeat("n", 257), exitUsage, "63 are allowed"},
		{base + " --csi-endpoint tcp://1.2.3.4:5", exitUsage, "want unix:///PATH"},
		{base + " --csi-endpoint unix://run/csi.sock", exitUsage, "want unix:///PATH"},
		{base + " --csi-endpoint unix:///" + strings.Repeat("x", 108), exitUsage, "has room for 107"},
		{base + " --journal-root /srv/", exitUsage, "--journal-root is --root"},
		{base + " --listen 7443", exitUsage, "want host:port"},
		{base + " --metrics-addr :http", exitUsage, "is not a number"},
		{base + " --listen :7443", exitUsage, "need --tls-dir"},
		{base + " --peer b=h:1", exitUsage, "need --tls-dir"},
		{base + " --peer h:1", exitUsage, "want name=host:port"},
		{base + " --peer a=h:1", exitUsage, "names this site itself"},
		{base + " --peer b=h:1 --peer b=h:2", exitUsage, "given twice"},
		{base + " --peer b=:1", exitUsage, "the host is missing"},
		{base + " --peer b=h:70000", exitUsage, "is not a number from 0 to 65535"},
		{base + " --rate-limit fast", exitUsage, "want a whole number of bytes"},
		{base + " --rate-limit -1", exitUsage, "want a whole number of bytes"},
		{base + " --index-memory much", exitUsage, "want a whole number of bytes such"},
		{base + " --index-memory 1Ki", exitUsage, "at least 1048576"},
		{base + " --scrub-every 1s", exitUsage, "want at least 1m0s"},
		{base + " --fuse-transport uring", exitUsage, `must be "dev-fuse" or "io-uring"`},
		{base + " --log-level loud", exitUsage, "want one of debug, error, info, warn"},
		{base + " --log-format xml", exitUsage, "want text or json"},
		{base + " --tls-dir " + tls + "/nope", exitFailed, "no such file"},
		{base + " --tls-dir " + of, exitFailed, "holds the certificate of site b, and this is site a"},
	}
	for _, c := range cases {
		t.Run(c.says, func(t *testing.T) {
			result := s.run(t, strings.Fields(c.args)...)
			if result.exit != c.exit || !strings.Contains(result.stderr, c.says) {
				t.Errorf("exit %d, want %d: %q, want %q in it", result.exit, c.exit, result.stderr, c.says)
			}
			if got.Site != "" {
				t.Error("the site was started")
			}
		})
	}
}

func TestStandaloneReportsFailure(t *testing.T) {
	s, _ := recordingShell(t)
	s.roles.standalone = func(context.Context, standaloneConfig) error { return errors.New("lock root: held by another process") }
	got := s.run(t, "standalone", "--site", "a", "--root", "/srv", "--csi-endpoint", "/run/csi.sock")
	if got.exit != exitFailed || !strings.Contains(got.stderr, "held by another process") {
		t.Errorf("exit %d: %q", got.exit, got.stderr)
	}
}

func TestLogFlags(t *testing.T) {
	s, _ := recordingShell(t)
	run := func(args ...string) string {
		return s.run(t, append([]string{"standalone", "--site", "a", "--root", "/srv", "--csi-endpoint", "/run/csi.sock"}, args...)...).stderr
	}
	if got := run(); !strings.Contains(got, "level=INFO msg=started site=a") || strings.Contains(got, "details") {
		t.Errorf("default: %q", got)
	}
	if got := run("--log-format", "json", "--log-level", "debug"); !strings.Contains(got, `"msg":"started"`) || !strings.Contains(got, "details") {
		t.Errorf("json, debug: %q", got)
	}
	if got := run("--log-level", "error"); got != "" {
		t.Errorf("error: %q", got)
	}
}

func TestKlogFollows(t *testing.T) {
	keepLoggers(t)
	var log bytes.Buffer
	if err := (&logFlags{roleflags.Log{Format: "text", Level: "info"}}).install(&log); err != nil {
		t.Fatal(err)
	}
	klog.InfoS("mounted", "target", "/x")
	klog.Flush()
	if !strings.Contains(log.String(), "msg=mounted target=/x") {
		t.Errorf("got %q", log.String())
	}
}

func TestHolderFlags(t *testing.T) {
	keepLoggers(t)
	s := newShell("")
	var socket, dir string
	s.roles.holder = func(_ context.Context, s, d string) error {
		socket, dir = s, d
		return nil
	}
	s.must(t, "holder", "--socket", "/run/holder.sock", "--dir", "/run/holder")
	if socket != "/run/holder.sock" || dir != "/run/holder" {
		t.Errorf("got %q, %q", socket, dir)
	}
	if got := s.run(t, "holder", "--socket", "x", "--dir", "/y"); got.exit != exitUsage {
		t.Errorf("a relative path: exit %d", got.exit)
	}
	if strings.Contains(s.must(t, "--help"), "\n  holder") {
		t.Error("holder is not hidden")
	}
}
