package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

var errKilled = errors.New("killed")

// dyingHost is the real machine for a process that dies around its at-th
// effect: before it, or after it.
type dyingHost struct {
	Host
	at, moments int
}

func (h *dyingHost) around(effect func() error) error {
	for _, act := range []func() error{func() error { return nil }, effect} {
		if err := act(); err != nil {
			return err
		}
		if h.moments++; h.at > 0 && h.moments >= h.at {
			return errKilled
		}
	}
	return nil
}

func (h *dyingHost) MountDevice(device, target, fsType string, options, sensitive []string) error {
	return h.around(func() error { return h.Host.MountDevice(device, target, fsType, options, sensitive) })
}

func (h *dyingHost) Bind(source, target string, readOnly bool) error {
	return h.around(func() error { return h.Host.Bind(source, target, readOnly) })
}

func (h *dyingHost) Unmount(target string) error {
	return h.around(func() error { return h.Host.Unmount(target) })
}

func (h *dyingHost) Run(ctx context.Context, tool string, args ...string) (output string, code int, err error) {
	err = h.around(func() (err error) {
		output, code, err = h.Host.Run(ctx, tool, args...)
		return err
	})
	return output, code, err
}

// live takes a volume through everything.
func live(v *volume, s *Server, c *csi.VolumeCapability) error {
	return firstError(
		func() error { return v.stage(s, c) },
		func() error { return v.publish(s, c, v.target, true) },
		func() error { return v.unpublish(s, v.target) },
		func() error { return v.unstage(s) },
	)
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// TestKilledAnywhere kills the service before and after every effect on the
// machine, and checks that the same calls then succeed.
func TestKilledAnywhere(t *testing.T) {
	needRoot(t)
	for fsType, sizeBytes := range map[string]int64{"ext4": 16 * mib, "xfs": 300 * mib} {
		t.Run(fsType, func(t *testing.T) {
			m := newMachine(t)
			c := mountCapability(fsType)
			whole := &dyingHost{Host: NewHost()}
			ok(t, live(m.attach("a", sizeBytes), m.restart(whole), c))
			if whole.moments < 10 {
				t.Fatalf("a life has only %d moments", whole.moments)
			}
			for at := 1; at <= whole.moments; at++ {
				t.Run(fmt.Sprint(at), func(t *testing.T) {
					m := newMachine(t)
					v := m.attach("a", sizeBytes)
					if err := live(v, m.restart(&dyingHost{Host: NewHost(), at: at}), c); err == nil {
						t.Error("a killed service carried on")
					}
					ok(t, live(v, m.Server, c))
					if rest, err := m.mounts(func(m *Mount) bool { return strings.HasPrefix(m.Point, v.m.dir) }); err != nil || len(rest) != 0 {
						t.Errorf("mounts are left: %v, %v", rest, err)
					}
				})
			}
		})
	}
}

// TestInterruptedFormat leaves a device as a killed mkfs may: with parts of a
// file system, but no signature.
func TestInterruptedFormat(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 16*mib)
	c := mountCapability("ext4")
	half := func() {
		m.tool("mkfs.ext4", "-q", "-F", v.device())
		m.tool("dd", "if=/dev/zero", "of="+v.device(), "bs=4096", "count=1", "conv=fsync") // the superblock comes last
	}
	half()
	wantCode(t, v.stage(m.Server, c), codes.FailedPrecondition) // it might be somebody's data
	ok(t, m.mark(v.id))
	ok(t, v.stage(m.Server, c)) // it is known to be ours
	if marked, err := m.isMarked(v.id); marked || err != nil {
		t.Errorf("marked %t, %v after formatting", marked, err)
	}
	ok(t, os.WriteFile(filepath.Join(v.staging, "file"), []byte("content"), 0o600))
	ok(t, v.unstage(m.Server), v.stage(m.Server, c))
	if _, err := os.Stat(filepath.Join(v.staging, "file")); err != nil {
		t.Errorf("a finished format was repeated: %v", err)
	}
}

// TestAnOldMarkFormatsNothing has a volume come back to a node on which its mkfs was
// interrupted, from another one that has formatted it and that it was used on.
func TestAnOldMarkFormatsNothing(t *testing.T) {
	needRoot(t)
	for fsType, size := range map[string]int64{"ext4": 16 * mib, "xfs": 320 * mib} {
		t.Run(fsType, func(t *testing.T) {
			m := newMachine(t)
			v := m.attach("a", size)
			c := mountCapability(fsType)
			ok(t, v.stage(m.Server, c))
			ok(t, os.WriteFile(filepath.Join(v.staging, "file"), []byte("content"), 0o600))
			ok(t, v.unstage(m.Server), m.mark(v.id), v.stage(m.Server, c))
			if _, err := os.Stat(filepath.Join(v.staging, "file")); err != nil {
				t.Errorf("what was written is gone: %v", err)
			}
			if marked, err := m.isMarked(v.id); marked || err != nil {
				t.Errorf("marked %t, %v", marked, err)
			}
		})
	}
}

// unreadableHost is the real machine with a device that cannot be read: blkid then says
// what it says of a blank one.
type unreadableHost struct {
	Host
	formatted bool
}

func (h *unreadableHost) Blank(string) (bool, error) { return false, unix.EIO }

func (h *unreadableHost) Run(ctx context.Context, tool string, args ...string) (string, int, error) {
	if tool == "blkid" {
		return "", 2, nil
	}
	h.formatted = h.formatted || strings.HasPrefix(tool, "mkfs")
	return h.Host.Run(ctx, tool, args...)
}

// TestAnOldMarkOfAnUnreadableDevice: a read error is no evidence that there is nothing.
func TestAnOldMarkOfAnUnreadableDevice(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 16*mib)
	c := mountCapability("ext4")
	ok(t, v.stage(m.Server, c), v.unstage(m.Server), m.mark(v.id))
	host := &unreadableHost{Host: NewHost()}
	wantCode(t, v.stage(m.restart(host), c), codes.Internal)
	if host.formatted {
		t.Error("a device that could not be read was formatted")
	}
	ok(t, v.stage(m.Server, c))
}
