package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/journal"
)

const mib = int64(1) << 20

// needRoot skips what attaches and mounts real devices.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not tested: staging and publishing real devices needs root")
	}
}

// machine is a node service with loop devices for volumes.
type machine struct {
	*Server
	t       *testing.T
	dir     string
	mu      sync.Mutex
	devices map[journal.VolumeID]string // guarded by mu
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), devices: make(map[journal.VolumeID]string)}
	m.Server = m.restart(nil)
	return m
}

// restart returns a new service on the same machine, as after a crash.
func (m *machine) restart(host Host) *Server {
	m.t.Helper()
	server, err := New(Config{
		NodeID: "node-1", MaxVolumesPerNode: 8, Devices: m, Host: host, StateDir: m.dir,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return server
}

func (m *machine) Device(_ context.Context, id journal.VolumeID) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	path, ok := m.devices[id]
	if !ok {
		return "", ErrNotFound
	}
	return path, nil
}

func (m *machine) Await(ctx context.Context, id journal.VolumeID) (string, error) {
	return m.Device(ctx, id)
}

func (m *machine) Ready(context.Context) error { return nil }

// volume is an attached volume and where it is to appear.
type volume struct {
	m       *machine
	id      string
	image   string
	staging string
	target  string
}

// attach makes a volume of the given size and attaches it.
func (m *machine) attach(name string, sizeBytes int64) *volume {
	m.t.Helper()
	v := &volume{
		m: m, id: strings.Repeat(fmt.Sprintf("%02x", name[0]), 16),
		image:   filepath.Join(m.dir, name+".img"),
		staging: filepath.Join(m.dir, name+" staging"), // a space is escaped in the mount table
		target:  filepath.Join(m.dir, name+" target"),
	}
	if err := os.WriteFile(v.image, nil, 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Truncate(v.image, sizeBytes); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Mkdir(v.staging, 0o700); err != nil {
		m.t.Fatal(err)
	}
	v.connect()
	m.t.Cleanup(v.destroy)
	return v
}

// connect attaches the image to a free loop device.
func (v *volume) connect() {
	v.m.t.Helper()
	loop := v.m.tool("losetup", "--find", "--show", v.image)
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	v.m.devices[v.journalID()] = loop
}

func (v *volume) journalID() journal.VolumeID {
	id, err := journal.ParseVolumeID(v.id)
	if err != nil {
		v.m.t.Fatal(err)
	}
	return id
}

func (v *volume) device() string {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	return v.m.devices[v.journalID()]
}

// destroy unmounts and detaches whatever a test left.
func (v *volume) destroy() {
	for _, path := range []string{v.target + " 2", v.target, v.staging} {
		if err := v.m.unmountAll(context.Background(), path); err != nil {
			v.m.t.Error(err)
		}
	}
	v.m.tool("losetup", "--detach", v.device())
}

func (v *volume) resize(sizeBytes int64) {
	v.m.t.Helper()
	if err := os.Truncate(v.image, sizeBytes); err != nil {
		v.m.t.Fatal(err)
	}
	v.m.tool("losetup", "--set-capacity", v.device())
}

func (m *machine) tool(name string, args ...string) string {
	m.t.Helper()
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%s %v: %v: %s", name, args, err, output)
	}
	return strings.TrimSpace(string(output))
}

func mountCapability(fsType string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func blockCapability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func (v *volume) stage(s *Server, c *csi.VolumeCapability) error {
	_, err := s.NodeStageVolume(context.Background(), &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, VolumeCapability: c,
	})
	return err
}

func (v *volume) unstage(s *Server) error {
	_, err := s.NodeUnstageVolume(context.Background(), &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging})
	return err
}

func (v *volume) publish(s *Server, c *csi.VolumeCapability, target string, readOnly bool) error {
	_, err := s.NodePublishVolume(context.Background(), &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, TargetPath: target, VolumeCapability: c, Readonly: readOnly,
	})
	return err
}

func (v *volume) unpublish(s *Server, target string) error {
	_, err := s.NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: target})
	return err
}

func (v *volume) expand(path string, required int64) (*csi.NodeExpandVolumeResponse, error) {
	return v.m.NodeExpandVolume(context.Background(), &csi.NodeExpandVolumeRequest{
		VolumeId: v.id, VolumePath: path, CapacityRange: &csi.CapacityRange{RequiredBytes: required},
	})
}

func (v *volume) usage(path string) []*csi.VolumeUsage {
	v.m.t.Helper()
	got, err := v.m.NodeGetVolumeStats(context.Background(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: path})
	if err != nil {
		v.m.t.Fatal(err)
	}
	return got.GetUsage()
}

func ok(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func wantCode(t *testing.T, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("code %s (%v), want %s", status.Code(err), err, code)
	}
}
