package sanity

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-csi/lockstep/controller"
)

// caller is a container orchestrator for one site. Its calls have to succeed.
type caller struct {
	t       *testing.T
	dir     string
	control csi.ControllerClient
	groups  csi.GroupControllerClient
	node    csi.NodeClient
}

func newCaller(t *testing.T, address string) *caller {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &caller{
		t: t, dir: t.TempDir(), control: csi.NewControllerClient(conn),
		groups: csi.NewGroupControllerClient(conn), node: csi.NewNodeClient(conn),
	}
}

func ext4() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

// done returns the value of a call that has to succeed.
func done[R any](c *caller) func(R, error) R {
	return func(value R, err error) R {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
		return value
	}
}

// create makes a volume, from a snapshot if one is named.
func (c *caller) create(name, snapshot string, parameters map[string]string) string {
	c.t.Helper()
	req := &csi.CreateVolumeRequest{
		Name: name, Parameters: parameters, CapacityRange: &csi.CapacityRange{RequiredBytes: 32 * mib},
		VolumeCapabilities: []*csi.VolumeCapability{ext4()},
	}
	if snapshot != "" {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
		}}
	}
	return done[*csi.CreateVolumeResponse](c)(c.control.CreateVolume(context.Background(), req)).GetVolume().GetVolumeId()
}

// mount publishes a volume and returns where, and what undoes it.
func (c *caller) mount(id string) (path string, unmount func()) {
	c.t.Helper()
	ctx := context.Background()
	staging, target := filepath.Join(c.dir, id+".staging"), filepath.Join(c.dir, id)
	if err := os.MkdirAll(staging, 0o700); err != nil {
		c.t.Fatal(err)
	}
	published := done[*csi.ControllerPublishVolumeResponse](c)(c.control.ControllerPublishVolume(ctx,
		&csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: nodeID, VolumeCapability: ext4()}))
	done[*csi.NodeStageVolumeResponse](c)(c.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, VolumeCapability: ext4(), PublishContext: published.GetPublishContext(),
	}))
	done[*csi.NodePublishVolumeResponse](c)(c.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, TargetPath: target, VolumeCapability: ext4(), PublishContext: published.GetPublishContext(),
	}))
	return target, func() {
		c.t.Helper()
		done[*csi.NodeUnpublishVolumeResponse](c)(c.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}))
		done[*csi.NodeUnstageVolumeResponse](c)(c.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging}))
		done[*csi.ControllerUnpublishVolumeResponse](c)(c.control.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: nodeID}))
	}
}

// write replaces a file of a published volume, durably.
func (c *caller) write(path, content string) {
	c.t.Helper()
	file, err := os.Create(filepath.Join(path, "file"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // Sync reports what matters
	if _, err := file.WriteString(content); err != nil {
		c.t.Fatal(err)
	}
	if err := file.Sync(); err != nil {
		c.t.Fatal(err)
	}
}

// content publishes a volume, and returns what its file has.
func (c *caller) content(id string) string {
	c.t.Helper()
	path, unmount := c.mount(id)
	defer unmount()
	content, err := os.ReadFile(filepath.Join(path, "file"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(content)
}

// TestRestoreMembers takes snapshots of a group under mounted file systems,
// deletes the volumes, and mounts each member's image: what csi-sanity does
// not look at.
func TestRestoreMembers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("restoring was not tested: it attaches and mounts devices, which needs root")
	}
	for name, run := range map[string]start{"loop": startLoop, "standalone": startStandalone} {
		t.Run(name, func(t *testing.T) { restoreMembers(t, run) })
	}
}

func restoreMembers(t *testing.T, run start) {
	ctx := context.Background()
	c := newCaller(t, run(t, &logBuffer{}))
	shop := map[string]string{controller.ParameterGroup: "shop"}
	data, wal := c.create("data", "", shop), c.create("wal", "", shop)
	dataPath, unmountData := c.mount(data)
	walPath, unmountWAL := c.mount(wal)
	c.write(dataPath, "data 1")
	c.write(walPath, "wal 1")
	single := done[*csi.CreateSnapshotResponse](c)(c.control.CreateSnapshot(ctx,
		&csi.CreateSnapshotRequest{Name: "single", SourceVolumeId: data})).GetSnapshot().GetSnapshotId()
	c.write(dataPath, "data 2")
	c.write(walPath, "wal 2")
	both := done[*csi.CreateVolumeGroupSnapshotResponse](c)(c.groups.CreateVolumeGroupSnapshot(ctx,
		&csi.CreateVolumeGroupSnapshotRequest{Name: "both", SourceVolumeIds: []string{data, wal}})).GetGroupSnapshot()
	c.write(dataPath, "data 3")
	unmountData()
	unmountWAL()
	for _, id := range []string{data, wal} {
		done[*csi.DeleteVolumeResponse](c)(c.control.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))
	}
	if got := c.content(c.create("data again", single, nil)); got != "data 1" {
		t.Errorf("the snapshot's own volume has %q", got)
	}
	if got := c.content(c.create("wal again", single, map[string]string{controller.ParameterMember: "wal"})); got != "wal 1" {
		t.Errorf("the other member has %q", got)
	}
	done[*csi.DeleteSnapshotResponse](c)(c.control.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: single}))
	want := map[string]string{data: "data 2", wal: "wal 2"}
	for _, member := range both.GetSnapshots() {
		source := member.GetSourceVolumeId()
		if got := c.content(c.create("of both "+source, member.GetSnapshotId(), nil)); got != want[source] {
			t.Errorf("a member of the group snapshot has %q, want %q", got, want[source])
		}
	}
	done[*csi.DeleteVolumeGroupSnapshotResponse](c)(c.groups.DeleteVolumeGroupSnapshot(ctx,
		&csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: both.GetGroupSnapshotId()}))
}
