package node

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lockstep-csi/lockstep/internal/csikeys"
)

func TestNodeGetInfo(t *testing.T) {
	m := newMachine(t)
	got, err := m.NodeGetInfo(context.Background(), &csi.NodeGetInfoRequest{})
	ok(t, err)
	if got.GetNodeId() != "node-1" || got.GetMaxVolumesPerNode() != 8 || got.GetAccessibleTopology().GetSegments()[csikeys.TopologyNode] != "node-1" {
		t.Errorf("info is %v", got)
	}
}

// TestTopology: what the cluster says of the node is told beside its id, and an
// answer without it is none.
func TestTopology(t *testing.T) {
	var failure error
	server, err := New(Config{
		NodeID: "node-1", Devices: &machine{}, StateDir: "/x",
		Topology: func(context.Context) (map[string]string, error) {
			return map[string]string{"zone": "z1", csikeys.TopologyNode: "another"}, failure
		},
	})
	ok(t, err)
	got, err := server.NodeGetInfo(context.Background(), &csi.NodeGetInfoRequest{})
	ok(t, err)
	if segments := got.GetAccessibleTopology().GetSegments(); len(segments) != 2 || segments["zone"] != "z1" || segments[csikeys.TopologyNode] != "node-1" {
		t.Errorf("segments are %v", segments)
	}
	failure = errors.New("the API server is away")
	_, err = server.NodeGetInfo(context.Background(), &csi.NodeGetInfoRequest{})
	wantCode(t, err, codes.Unavailable)
}

func TestConfigValidate(t *testing.T) {
	good := Config{NodeID: "n", Devices: &machine{}, StateDir: "/x"}
	ok(t, good.Validate())
	for name, spoil := range map[string]func(*Config){
		"no node id":       func(c *Config) { c.NodeID = "" },
		"no devices":       func(c *Config) { c.Devices = nil },
		"no state":         func(c *Config) { c.StateDir = "" },
		"negative maximum": func(c *Config) { c.MaxVolumesPerNode = -1 },
		"negative wait":    func(c *Config) { c.LockWait = -1 },
		"negative unmount": func(c *Config) { c.UnmountWait = -1 },
	} {
		bad := good
		spoil(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAccessOf(t *testing.T) {
	with := func(change func(*csi.VolumeCapability)) *csi.VolumeCapability {
		c := mountCapability("")
		change(c)
		return c
	}
	for name, test := range map[string]struct {
		capability *csi.VolumeCapability
		context    map[string]string
		fsType     string // empty: must be refused
	}{
		"default":       {mountCapability(""), nil, "ext4"},
		"named":         {mountCapability("xfs"), nil, "xfs"},
		"of the volume": {mountCapability(""), map[string]string{csikeys.FSType: "xfs"}, "xfs"},
		"named first":   {mountCapability("ext4"), map[string]string{csikeys.FSType: "xfs"}, "ext4"},
		"unknown":       {mountCapability("btrfs"), nil, ""},
		"none":          {nil, nil, ""},
		"no type":       {with(func(c *csi.VolumeCapability) { c.AccessType = nil }), nil, ""},
		"no mode":       {with(func(c *csi.VolumeCapability) { c.AccessMode = nil }), nil, ""},
		"many nodes": {with(func(c *csi.VolumeCapability) {
			c.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
		}), nil, ""},
		"options":         {with(func(c *csi.VolumeCapability) { c.GetMount().MountFlags = []string{"noatime", "ro"} }), nil, "ext4"},
		"forbidden flag":  {with(func(c *csi.VolumeCapability) { c.GetMount().MountFlags = []string{"bind"} }), nil, ""},
		"forbidden among": {with(func(c *csi.VolumeCapability) { c.GetMount().MountFlags = []string{"noatime,remount"} }), nil, ""},
	} {
		got, err := accessOf(test.capability, test.context, nil)
		if (err == nil) != (test.fsType != "") || (err == nil && got.fsType != test.fsType) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
		if name == "options" && !got.readOnly {
			t.Error("the flag ro was not understood")
		}
	}
}

func TestUnescape(t *testing.T) {
	for text, want := range map[string]string{
		"/plain": "/plain", `/a\040b`: "/a b", `/a\134b`: `/a\b`, `/end\04`: `/end\04`, `/\0400`: "/ 0", `/x\999`: `/x\999`,
	} {
		if got := unescape(text); got != want {
			t.Errorf("unescape(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestCodes(t *testing.T) {
	for err, want := range map[error]codes.Code{
		ErrInvalid: codes.InvalidArgument, ErrNotFound: codes.NotFound, ErrExists: codes.AlreadyExists,
		ErrPrecondition: codes.FailedPrecondition, ErrForeign: codes.FailedPrecondition, ErrDamaged: codes.DataLoss,
		ErrOutOfRange: codes.OutOfRange, ErrBusy: codes.Aborted, context.DeadlineExceeded: codes.DeadlineExceeded,
		errors.New("anything else"): codes.Internal,
	} {
		if _, got := answer(new(int), fmt.Errorf("stage: %w", err)); status.Code(got) != want {
			t.Errorf("%v became %v, want %s", err, got, want)
		}
	}
}

// TestVolumesDoNotWaitForEachOther holds one volume's lock and uses another.
func TestVolumesDoNotWaitForEachOther(t *testing.T) {
	m := newMachine(t)
	unlock, err := m.lock(context.Background(), "busy")
	ok(t, err)
	defer unlock()
	_, err = m.NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{VolumeId: "idle", TargetPath: m.dir + "/none"})
	ok(t, err)
	m.cfg.LockWait = 1
	_, err = m.NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{VolumeId: "busy", TargetPath: m.dir + "/none"})
	wantCode(t, err, codes.Aborted)
}

// TestUnpublishNeverRemovesContent points a call at a directory that is not
// mounted and not empty.
func TestUnpublishNeverRemovesContent(t *testing.T) {
	m := newMachine(t)
	ok(t, m.mark("x")) // something in the directory
	_, err := m.NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{VolumeId: "x", TargetPath: m.dir})
	wantCode(t, err, codes.Internal)
	if marked, err := m.isMarked("x"); !marked || err != nil {
		t.Errorf("content is gone: %t, %v", marked, err)
	}
}
