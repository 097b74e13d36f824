package noderole

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/engine/frontend/conformance"
	"github.com/lockstep-csi/lockstep/engine/frontend/fuse"
	"github.com/lockstep-csi/lockstep/internal/csikeys"
	"github.com/lockstep-csi/lockstep/internal/loopback"
	"github.com/lockstep-csi/lockstep/node/holder"
)

const volumeID = "0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b"

// plugin is a node role in this process, with a client.
type plugin struct {
	t    *testing.T
	cfg  Config
	stop func()
	csi  csi.NodeClient
}

func startPlugin(t *testing.T) *plugin {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not tested: staging devices of engines; needs root to mount and to attach loop devices")
	}
	dir := t.TempDir()
	p := &plugin{t: t, cfg: Config{
		CSIEndpoint: "unix://" + filepath.Join(dir, "csi.sock"), NodeID: "n1", HolderSocket: filepath.Join(dir, "holder", "holder.sock"),
		DevicesDir: filepath.Join(dir, "devices"), StateDir: filepath.Join(dir, "state"), StageWait: 200 * time.Millisecond,
		HealthAddr: freeAddr(t), MetricsAddr: freeAddr(t), Version: "test", Log: slog.New(slog.DiscardHandler),
		Topology: func(context.Context) (map[string]string, error) { return map[string]string{"zone": "z1"}, nil },
	}}
	conn, err := grpc.NewClient(p.cfg.CSIEndpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p.csi = csi.NewNodeClient(conn)
	p.start()
	t.Cleanup(func() { p.stop() })
	return p
}

func freeAddr(t *testing.T) string {
	t.Helper()
	address, err := loopback.Free()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// start runs the role and waits until it is ready.
func (p *plugin) start() {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, p.cfg) }()
	p.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Error(err)
		}
		p.stop = func() {}
	}
	for deadline := time.Now().Add(20 * time.Second); p.get(p.cfg.HealthAddr, "/readyz") == ""; {
		if time.Now().After(deadline) {
			p.t.Fatal("the plugin does not become ready")
		}
	}
}

// get returns "ok" and the body of an answer that is a success, else nothing.
func (p *plugin) get(address, path string) string {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return ""
	}
	return "ok" + string(body)
}

func (p *plugin) wantMetric(line string) {
	p.t.Helper()
	if text := p.get(p.cfg.MetricsAddr, "/metrics"); !strings.Contains(text, line+"\n") {
		p.t.Errorf("no metric %q in %s", line, text)
	}
}

// engine serves a device in this process.
type engine struct {
	keeper *holder.Keeper
	served chan error
	stop   context.CancelFunc
}

func (p *plugin) startEngine(dev *conformance.Memory) *engine {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	keeper, err := holder.Keep(ctx, holder.KeeperConfig{
		Socket: p.cfg.HolderSocket, AttachConfig: holder.AttachConfig{Volume: volumeID, BlockBytes: 512},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	e := &engine{keeper: keeper, served: make(chan error, 1), stop: stop}
	go func() { e.served <- fuse.Serve(serving, keeper.Session(), dev, fuse.Options{}) }()
	if _, err := keeper.AttachLoop(ctx); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(e.die)
	return e
}

// die ends an engine without giving anything to anybody.
func (e *engine) die() {
	e.stop()
	if err := <-e.served; err != nil && !errors.Is(err, fuse.ErrUnmounted) {
		panic(err)
	}
	e.served <- nil // for a second call
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = e.keeper.Close(gone) // what it says about the holder is of no interest
}

var mountCapability = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

func (p *plugin) stage(path string) error {
	_, err := p.csi.NodeStageVolume(p.context(), &csi.NodeStageVolumeRequest{VolumeId: volumeID, StagingTargetPath: path, VolumeCapability: mountCapability})
	return err
}

func (p *plugin) publish(staging, path string) error {
	_, err := p.csi.NodePublishVolume(p.context(), &csi.NodePublishVolumeRequest{VolumeId: volumeID, StagingTargetPath: staging, TargetPath: path, VolumeCapability: mountCapability})
	return err
}

func (p *plugin) unpublish(path string) error {
	_, err := p.csi.NodeUnpublishVolume(p.context(), &csi.NodeUnpublishVolumeRequest{VolumeId: volumeID, TargetPath: path})
	return err
}

func (p *plugin) unstage(path string) error {
	_, err := p.csi.NodeUnstageVolume(p.context(), &csi.NodeUnstageVolumeRequest{VolumeId: volumeID, StagingTargetPath: path})
	return err
}

func (p *plugin) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	p.t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRun takes a volume through its life on a node: staging waits for the
// engine, the plugin is replaced, and then dies together with the engine.
func TestRun(t *testing.T) {
	p := startPlugin(t)
	for _, tool := range []string{"mkfs.ext4", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("not tested: %s is not installed", tool)
		}
	}
	dir := t.TempDir()
	staging, target := filepath.Join(dir, "staging"), filepath.Join(dir, "target")
	t.Cleanup(func() {
		_ = unix.Unmount(target, unix.MNT_DETACH)
		_ = unix.Unmount(staging, unix.MNT_DETACH)
	})
	info, err := p.csi.NodeGetInfo(p.context(), &csi.NodeGetInfoRequest{})
	must(t, err)
	if segments := info.GetAccessibleTopology().GetSegments(); info.GetMaxVolumesPerNode() != holder.MaxVolumes || len(segments) != 2 || segments["zone"] != "z1" || segments[csikeys.TopologyNode] != "n1" {
		t.Errorf("info is %v", info)
	}

	err = p.stage(staging)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the engine of volume "+volumeID+" has not attached on this node") {
		t.Errorf("stage without an engine: %v", err)
	}
	dev := conformance.NewMemory(64 << 20)
	e := p.startEngine(dev)
	must(t, p.stage(staging))
	must(t, p.publish(staging, target))
	content := bytes.Repeat([]byte("acknowledged"), 1000)
	write := func(name string) {
		t.Helper()
		file, err := os.OpenFile(filepath.Join(target, name), os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
		must(t, err)
		_, err = file.Write(content)
		must(t, errors.Join(err, file.Close()))
	}
	write("first")
	p.wantMetric(`lockstep_node_volumes{state="served"} 1`)
	p.wantMetric(`lockstep_node_attaches_total 1`)

	// Replaced while the volume is in use.
	p.stop()
	write("without-plugin")
	p.start()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.get(p.cfg.MetricsAddr, "/metrics"), `lockstep_node_restores_total{outcome="taken"} 1`); {
		if time.Now().After(deadline) {
			t.Fatal("the engine does not come back")
		}
	}
	write("restored")
	must(t, p.stage(staging)) // idempotent over the restart

	// Both at once: I/O fails, the volume is attached anew, and the next publish
	// finds the staging mount dead, which the kubelet takes for a good one.
	p.stop()
	e.die()
	if err := os.WriteFile(filepath.Join(target, "lost"), content, 0o600); err == nil {
		if f, err := os.Open(target); err == nil {
			if err = unix.Syncfs(int(f.Fd())); err == nil {
				t.Error("a write without engine and plugin succeeded")
			}
			f.Close()
		}
	}
	p.start()
	e = p.startEngine(dev)
	must(t, p.unpublish(target))
	must(t, p.publish(staging, target))
	got, err := os.ReadFile(filepath.Join(target, "restored"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("after both died: %d bytes, %v", len(got), err)
	}
	must(t, p.unpublish(target))
	must(t, p.unstage(staging))
	must(t, e.keeper.Detach(p.context(), false))
	must(t, p.unstage(staging)) // needs neither device nor engine
}

// TestWithdraw has the engine give its device up while the volume stays attached:
// not under a pod's mount, nor under a raw device that a pod is to get, and the next
// pod finds what the engine then has.
func TestWithdraw(t *testing.T) {
	p := startPlugin(t)
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("not tested: mkfs.ext4 is not installed")
	}
	dir := t.TempDir()
	staging, target := filepath.Join(dir, "staging"), filepath.Join(dir, "target")
	t.Cleanup(func() {
		_ = unix.Unmount(target, unix.MNT_DETACH)
		_ = unix.Unmount(staging, unix.MNT_DETACH)
	})
	dev := conformance.NewMemory(64 << 20)
	e := p.startEngine(dev)
	refused := func(when string) {
		t.Helper()
		for _, look := range []bool{true, false} {
			if err := e.keeper.Withdraw(p.context(), look); !errors.Is(err, holder.ErrBusy) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s, look %t: %v, want ErrBusy, and where", when, look, err)
			}
		}
	}
	must(t, p.stage(staging))
	refused("staged")
	must(t, p.publish(staging, target))
	refused("published")
	must(t, os.WriteFile(filepath.Join(target, "file"), []byte("content"), 0o600))
	must(t, p.unpublish(target))
	must(t, p.unstage(staging))

	asBlock := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}, AccessMode: mountCapability.GetAccessMode()}
	_, err := p.csi.NodePublishVolume(p.context(), &csi.NodePublishVolumeRequest{VolumeId: volumeID, StagingTargetPath: staging, TargetPath: target, VolumeCapability: asBlock})
	must(t, err)
	refused("published as a block device")
	must(t, p.unpublish(target))

	must(t, e.keeper.Withdraw(p.context(), true))
	must(t, e.keeper.Withdraw(p.context(), false))
	if err := p.stage(staging); status.Code(err) != codes.Unavailable {
		t.Errorf("stage while the device is away: %v", err)
	}
	e.die()
	e = p.startEngine(dev)
	must(t, p.stage(staging))
	must(t, p.publish(staging, target))
	if got, err := os.ReadFile(filepath.Join(target, "file")); err != nil || string(got) != "content" {
		t.Errorf("on the device that came back: %q, %v", got, err)
	}
	must(t, p.unpublish(target))
	must(t, p.unstage(staging))
	must(t, e.keeper.Detach(p.context(), false))
}
