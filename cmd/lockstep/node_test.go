package main

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
)

// recordingNode returns a shell whose node role keeps what it was given, on a
// host that has everything.
func recordingNode(t *testing.T) (*shell, *nodeConfig) {
	keepLoggers(t)
	got := &nodeConfig{}
	s := newShell("")
	s.host = soundHost()
	s.roles.node = func(_ context.Context, config nodeConfig) error {
		*got = config
		return nil
	}
	return s, got
}

const nodeBase = "node --node-id n1 --csi-endpoint unix:///run/csi.sock --holder-socket /run/h/holder.sock --devices-dir /run/../run/devices --state-dir /var/s"

func TestNodeFlagsTakeEffect(t *testing.T) {
	s, got := recordingNode(t)
	s.must(t, strings.Fields(nodeBase+" --driver-name x.example --holder-group 65532 --max-volumes 20 --stage-wait 5s --health-addr :8080 --metrics-addr :9090 --fuse-transport io-uring")...)
	want := nodeConfig{
		CSIEndpoint: "unix:///run/csi.sock", DriverName: "x.example", NodeID: "n1", HolderSocket: "/run/h/holder.sock", HolderGroup: 65532,
		DevicesDir: "/run/devices", StateDir: "/var/s", MaxVolumes: 20, StageWait: 5 * time.Second, HealthAddr: ":8080", MetricsAddr: ":9090", Transport: fuse.TransportRing,
	}
	if *got != want {
		t.Errorf("got %+v\nwant %+v", *got, want)
	}
	s.must(t, strings.Fields(nodeBase)...)
	want = nodeConfig{
		CSIEndpoint: "unix:///run/csi.sock", DriverName: "csi.lockstep.dev", NodeID: "n1", HolderSocket: "/run/h/holder.sock",
		DevicesDir: "/run/devices", StateDir: "/var/s", StageWait: 90 * time.Second, Transport: fuse.TransportDevice,
	}
	if *got != want {
		t.Errorf("defaults: got %+v\nwant %+v", *got, want)
	}
}

func TestNodeRefuses(t *testing.T) {
	s, got := recordingNode(t)
	for _, c := range []struct{ args, says string }{
		{"node", "--csi-endpoint is missing"},
		{nodeBase + " --node-id -x", "beginning and ending with a letter or digit"},
		{nodeBase + " --csi-endpoint tcp://1.2.3.4:5", "want unix:///PATH"},
		{nodeBase + " --holder-socket /" + strings.Repeat("x", 108), "has room for 107"},
		{nodeBase + " --max-volumes 257", "want 0 to 256"},
		{nodeBase + " --holder-group -1", "is negative"},
		{nodeBase + " --fuse-transport uring", `must be "dev-fuse" or "io-uring"`},
		{nodeBase + " --stage-wait 0s", "want more than 0"},
		{nodeBase + " --health-addr 8080", "want host:port"},
	} {
		result := s.run(t, strings.Fields(c.args)...)
		if result.exit != exitUsage || !strings.Contains(result.stderr, c.says) {
			t.Errorf("%s: exit %d: %q, want %q in it", c.args, result.exit, result.stderr, c.says)
		}
	}
	if got.NodeID != "" {
		t.Error("the node was started")
	}
}

// TestNodeSaysWhatIsMissing: a node that cannot serve says so at its start, with
// what to do, and does not wait for the first volume.
func TestNodeSaysWhatIsMissing(t *testing.T) {
	s, got := recordingNode(t)
	s.host.openable = func(path string) error {
		if path == "/dev/fuse" {
			return &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		return nil
	}
	result := s.run(t, strings.Fields(nodeBase)...)
	for _, want := range []string{"this node cannot serve volumes", "/dev/fuse (open /dev/fuse: file does not exist)", "load the fuse module"} {
		if result.exit != exitFailed || !strings.Contains(result.stderr, want) {
			t.Errorf("exit %d: %q, want %q in it", result.exit, result.stderr, want)
		}
	}
	if strings.Contains(result.stderr, "loop") || got.NodeID != "" {
		t.Errorf("names what is there, or started: %q", result.stderr)
	}
}
