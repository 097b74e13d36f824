package node

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/lockstep-csi/lockstep/internal/csikeys"
)

// TestFileSystemLife takes a volume through two lives on the node and checks
// that its content lasts.
func TestFileSystemLife(t *testing.T) {
	needRoot(t)
	for fsType, sizeBytes := range map[string]int64{"ext4": 32 * mib, "xfs": 300 * mib} {
		t.Run(fsType, func(t *testing.T) {
			m := newMachine(t)
			v := m.attach("a", sizeBytes)
			c := mountCapability(fsType)
			for range 2 { // each call is idempotent
				ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, false))
			}
			ok(t, os.WriteFile(filepath.Join(v.target, "file"), []byte("content"), 0o600))
			usage := v.usage(v.target)
			if len(usage) != 2 || usage[0].GetTotal() <= 0 || usage[0].GetTotal() > sizeBytes || usage[0].GetUsed() <= 0 || usage[1].GetUnit() != csi.VolumeUsage_INODES {
				t.Errorf("usage is %v", usage)
			}
			for range 2 {
				ok(t, v.unpublish(m.Server, v.target))
			}
			for range 2 {
				ok(t, v.unstage(m.Server))
			}
			if _, err := os.Lstat(v.target); !os.IsNotExist(err) {
				t.Errorf("target is left: %v", err)
			}
			ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, true))
			if got, err := os.ReadFile(filepath.Join(v.target, "file")); err != nil || string(got) != "content" {
				t.Errorf("content is %q, %v", got, err)
			}
			if err := os.WriteFile(filepath.Join(v.target, "other"), nil, 0o600); err == nil {
				t.Error("a read-only target can be written to")
			}
			if err := os.WriteFile(filepath.Join(v.staging, "other"), nil, 0o600); err != nil {
				t.Errorf("read-only publishing made staging read-only: %v", err)
			}
			wantCode(t, v.publish(m.Server, c, v.target, false), codes.AlreadyExists)
		})
	}
}

func TestBlockLife(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 8*mib)
	c := blockCapability()
	for range 2 {
		ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, false))
	}
	device, err := NewHost().Device(v.target)
	if err != nil || device.SizeBytes != 8*mib {
		t.Errorf("target is %+v, %v", device, err)
	}
	if usage := v.usage(v.target); len(usage) != 1 || usage[0].GetTotal() != 8*mib {
		t.Errorf("usage is %v", usage)
	}
	// The controller has to make the device read-only; a mount cannot.
	wantCode(t, v.publish(m.Server, c, v.target+" 2", true), codes.FailedPrecondition)
	wantCode(t, v.publish(m.Server, c, v.target+" 2", false), codes.FailedPrecondition)
	v.resize(16 * mib)
	if got, err := v.expand(v.target, 16*mib); err != nil || got.GetCapacityBytes() != 16*mib {
		t.Errorf("expand: %v, %v", got, err)
	}
	_, err = v.expand(v.target, 17*mib)
	wantCode(t, err, codes.OutOfRange)
	for range 2 {
		ok(t, v.unpublish(m.Server, v.target), v.unstage(m.Server))
	}
	if _, err := os.Lstat(v.target); !os.IsNotExist(err) {
		t.Errorf("target is left: %v", err)
	}
}

func TestAccessModes(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	for name, test := range map[string]struct {
		mode   csi.VolumeCapability_AccessMode_Mode
		second codes.Code
	}{
		"writer":        {csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, codes.FailedPrecondition},
		"single writer": {csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER, codes.FailedPrecondition},
		"multi writer":  {csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER, codes.OK},
	} {
		for kind, c := range map[string]*csi.VolumeCapability{"mount": mountCapability("ext4"), "block": blockCapability()} {
			t.Run(name+" "+kind, func(t *testing.T) {
				m.t = t
				v := m.attach(kind[:1]+name, 16*mib)
				c.AccessMode.Mode = test.mode
				ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, false))
				wantCode(t, v.publish(m.Server, c, v.target+" 2", false), test.second)
				// A service that was restarted knows the same.
				wantCode(t, v.publish(m.restart(nil), c, v.target+" 2", false), test.second)
				ok(t, v.publish(m.Server, c, v.target, false))
				ok(t, v.unpublish(m.Server, v.target+" 2"), v.unpublish(m.Server, v.target), v.unstage(m.Server))
			})
		}
	}
}

func TestStageRefusesForeignContent(t *testing.T) {
	needRoot(t)
	for name, fill := range map[string]func(*machine, *volume){
		"other file system": func(m *machine, v *volume) { m.tool("mkfs.ext2", "-q", v.device()) },
		"swap":              func(m *machine, v *volume) { m.tool("mkswap", v.device()) },
		"data at the start": func(m *machine, v *volume) {
			m.tool("dd", "if=/dev/urandom", "of="+v.device(), "bs=4096", "seek=9", "count=1")
		},
		"data at the end": func(m *machine, v *volume) {
			m.tool("dd", "if=/dev/urandom", "of="+v.device(), "bs=1M", "seek=15", "count=1")
		},
		"partition table": func(m *machine, v *volume) {
			mbr := make([]byte, 512)
			mbr[446+4], mbr[446+8], mbr[446+12], mbr[510], mbr[511] = 0x83, 1, 100, 0x55, 0xAA
			ok(m.t, os.WriteFile(v.device(), mbr, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			v := m.attach("a", 16*mib)
			fill(m, v)
			before := m.tool("sha256sum", v.image)
			err := v.stage(m.Server, mountCapability("ext4"))
			t.Log(err)
			wantCode(t, err, codes.FailedPrecondition)
			if after := m.tool("sha256sum", v.image); after != before {
				t.Error("the device was changed")
			}
		})
	}
}

// TestClonesOfMountedVolumes mounts an image that was copied under a mounted
// file system, beside the original: as restores and clones are.
func TestClonesOfMountedVolumes(t *testing.T) {
	needRoot(t)
	for fsType, sizeBytes := range map[string]int64{"ext4": 32 * mib, "xfs": 300 * mib} {
		t.Run(fsType, func(t *testing.T) {
			m := newMachine(t)
			source := m.attach("a", sizeBytes)
			c := mountCapability(fsType)
			ok(t, source.stage(m.Server, c), os.WriteFile(filepath.Join(source.staging, "file"), []byte("content"), 0o600))
			m.tool("sync", "-f", source.staging)
			clone := m.attach("b", sizeBytes)
			m.tool("cp", "--sparse=always", source.image, clone.image)
			clone.resize(2 * sizeBytes) // restored into something bigger
			ok(t, clone.stage(m.Server, c), clone.publish(m.Server, c, clone.target, false))
			if got, err := os.ReadFile(filepath.Join(clone.target, "file")); err != nil || string(got) != "content" {
				t.Errorf("content is %q, %v", got, err)
			}
			if total := clone.usage(clone.target)[0].GetTotal(); total < sizeBytes+sizeBytes/2 {
				t.Errorf("the file system has %d bytes, want nearly %d", total, 2*sizeBytes)
			}
		})
	}
}

func TestExpandMountedFileSystem(t *testing.T) {
	needRoot(t)
	for fsType, sizeBytes := range map[string]int64{"ext4": 32 * mib, "xfs": 300 * mib} {
		t.Run(fsType, func(t *testing.T) {
			m := newMachine(t)
			v := m.attach("a", sizeBytes)
			c := mountCapability(fsType)
			ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, false))
			// Nothing to do needs no privilege.
			if got, err := v.expand(v.target, sizeBytes); err != nil || got.GetCapacityBytes() != sizeBytes {
				t.Errorf("expand to what it has: %v, %v", got, err)
			}
			v.resize(2 * sizeBytes)
			_, err := v.expand(v.target, 2*sizeBytes)
			if fsType == "ext4" && !hasResource(t) {
				// Without CAP_SYS_RESOURCE it says so, and the next staging does it.
				wantCode(t, err, codes.FailedPrecondition)
				ok(t, v.unpublish(m.Server, v.target), v.unstage(m.Server))
				ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, false))
				_, err = v.expand(v.target, 2*sizeBytes)
			}
			ok(t, err)
			if total := v.usage(v.target)[0].GetTotal(); total < sizeBytes+sizeBytes/2 {
				t.Errorf("the file system has %d bytes, want nearly %d", total, 2*sizeBytes)
			}
		})
	}
}

// TestStaleMount puts another device behind a volume while the old one is
// still mounted, as after an engine's death without a successor.
func TestStaleMount(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 32*mib)
	c := mountCapability("ext4")
	ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, false))
	ok(t, os.WriteFile(filepath.Join(v.target, "file"), []byte("content"), 0o600))
	old := v.device()
	v.connect()
	defer m.tool("losetup", "--detach", old)
	m.tool("sync", "-f", v.target)
	ok(t, m.unmountAll(context.Background(), v.target)) // the kubelet ends the pod first
	ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, false))
	if got, err := os.ReadFile(filepath.Join(v.target, "file")); err != nil || string(got) != "content" {
		t.Errorf("content is %q, %v", got, err)
	}
}

// TestDamagedFileSystem takes the root directory out of a file system, which
// e2fsck repairs only when it is asked to.
func TestDamagedFileSystem(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 32*mib)
	c := mountCapability("ext4")
	ok(t, v.stage(m.Server, c), v.unstage(m.Server))
	m.tool("debugfs", "-w", "-R", "clri <2>", v.device())
	m.tool("tune2fs", "-E", "force_fsck", v.device())
	err := v.stage(m.Server, c)
	t.Log(err)
	wantCode(t, err, codes.DataLoss)
	if mounts, err := m.mountsAt(v.staging); err != nil || len(mounts) != 0 {
		t.Errorf("a damaged file system is mounted: %v, %v", mounts, err)
	}
}

// TestUnnamedFileSystem stages an xfs volume for a caller that names no type.
func TestUnnamedFileSystem(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 300*mib)
	ok(t, v.stage(m.Server, mountCapability("xfs")), v.unstage(m.Server))
	for range 2 {
		ok(t, v.stage(m.Server, mountCapability("")))
	}
	wantCode(t, v.stage(m.Server, mountCapability("ext4")), codes.AlreadyExists)
	ok(t, v.unstage(m.Server))
	wantCode(t, v.stage(m.Server, mountCapability("ext4")), codes.FailedPrecondition)
}

func TestMountGroup(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 32*mib)
	c := mountCapability("ext4")
	ok(t, v.stage(m.Server, c), os.Mkdir(filepath.Join(v.staging, "dir"), 0o700))
	ok(t, os.WriteFile(filepath.Join(v.staging, "dir", "old"), nil, 0o600), os.Symlink("old", filepath.Join(v.staging, "dir", "link")))
	c.GetMount().VolumeMountGroup = "4711"
	for range 2 {
		ok(t, v.stage(m.Server, c), v.publish(m.Server, c, v.target, false))
	}
	ok(t, os.WriteFile(filepath.Join(v.target, "dir", "new"), nil, 0o600))
	for path, want := range map[string]string{
		"": "4711 2770", "dir": "4711 2770", "dir/old": "4711 660", "dir/new": "4711 600",
	} {
		got := m.tool("stat", "-c", "%g %a", filepath.Join(v.target, path))
		if path == "" {
			got, want = got[:len("4711 2")], "4711 2" // the root's other bits are mkfs's
		}
		if got != want {
			t.Errorf("%q is %s, want %s", path, got, want)
		}
	}
	c.GetMount().VolumeMountGroup = "staff"
	wantCode(t, v.stage(m.Server, c), codes.InvalidArgument)
}

func TestReadOnlyStaging(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 32*mib)
	c := mountCapability("ext4")
	ok(t, v.stage(m.Server, c), v.unstage(m.Server))
	readOnly := &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, VolumeCapability: c,
		PublishContext: map[string]string{csikeys.ReadOnly: "true"},
	}
	for range 2 {
		_, err := m.NodeStageVolume(context.Background(), readOnly)
		ok(t, err)
	}
	if err := os.WriteFile(filepath.Join(v.staging, "file"), nil, 0o600); err == nil {
		t.Error("a volume that was published read-only can be written to")
	}
	wantCode(t, v.stage(m.Server, c), codes.AlreadyExists)
	wantCode(t, v.publish(m.Server, c, v.target, false), codes.FailedPrecondition)
}

// TestReadOnlyBlock: a device that can be written to is published read-only where
// whoever calls keeps its user from writing, to several users at a time, and
// nowhere else.
func TestReadOnlyBlock(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 32*mib)
	c := blockCapability()
	c.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	ok(t, v.stage(m.Server, c))
	wantCode(t, v.publish(m.Server, c, v.target, true), codes.FailedPrecondition)
	trusting, err := New(Config{NodeID: "node-1", Devices: m, StateDir: m.dir, DevicesByCaller: true, Log: slog.New(slog.DiscardHandler)})
	ok(t, err)
	other := v.target + "-2"
	for range 2 {
		ok(t, v.publish(trusting, c, v.target, true), v.publish(trusting, c, other, true))
	}
	if content, err := os.ReadFile(other); err != nil || len(content) != 32<<20 {
		t.Errorf("a device that is published read-only has %d bytes (%v)", len(content), err)
	}
	ok(t, v.unpublish(trusting, v.target), v.unpublish(trusting, other))
}

func TestHealth(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	m := newMachine(t)
	v := m.attach("a", 32*mib)
	health := func() []*csi.VolumeHealth_VolumeHealthEntry {
		got, err := m.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: v.id})
		ok(t, err)
		return got.GetVolumeHealth().GetHealthStatuses()
	}
	ok(t, v.stage(m.Server, mountCapability("ext4")), v.publish(m.Server, mountCapability("ext4"), v.target, false))
	if got := health(); len(got) != 0 {
		t.Errorf("a healthy volume is %v", got)
	}
	// What the kernel does to the file system after an error.
	m.tool("mount", "-o", "remount,ro,bind", v.target)
	if got := health(); len(got) != 0 {
		t.Errorf("a read-only target makes the volume %v", got)
	}
	m.tool("mount", "-o", "remount,rw,bind", v.target)
	setSuperReadOnly(t, v.staging)
	if got := health(); len(got) != 1 || got[0].GetReason() != "FileSystemReadOnly" {
		t.Errorf("a failed file system is %v", got)
	}
	_, err := m.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: "00000000000000000000000000000000"})
	wantCode(t, err, codes.NotFound)
}
