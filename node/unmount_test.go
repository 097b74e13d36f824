package node

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// stuckHost is the real machine on which an unmount waits for a device.
type stuckHost struct {
	Host
	entered chan struct{}
	served  chan struct{} // closed when the device has an engine again
}

func (h *stuckHost) Unmount(target string) error {
	h.entered <- struct{}{}
	<-h.served
	return h.Host.Unmount(target)
}

// TestUnmountWithoutEngine: unstaging a volume that has no engine neither hangs
// nor pretends success, and is done once there is an engine.
func TestUnmountWithoutEngine(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	host := &stuckHost{Host: NewHost(), entered: make(chan struct{}, 1), served: make(chan struct{})}
	server, err := New(Config{
		NodeID: "node-1", Devices: m, Host: host, StateDir: m.dir, UnmountWait: 10 * time.Millisecond, Log: m.log,
	})
	ok(t, err)
	v := m.attach("a", 32*mib)
	ok(t, v.stage(server, mountCapability("ext4")))
	for range 3 {
		wantCode(t, v.unstage(server), codes.Unavailable)
	}
	<-host.entered
	select {
	case <-host.entered:
		t.Error("each try began another unmount")
	default:
	}
	close(host.served)
	server.cfg.UnmountWait = 20 * time.Second
	ok(t, v.unstage(server))
	if mounts, err := m.mountsAt(v.staging); err != nil || len(mounts) != 0 {
		t.Errorf("mounted after it was unstaged: %v, %v", mounts, err)
	}
}

// TestPublishStagesAgain: what is staged is of a device that is gone, because
// the volume had to be attached anew. Publishing stages the new one.
func TestPublishStagesAgain(t *testing.T) {
	needRoot(t)
	m := newMachine(t)
	v := m.attach("a", 32*mib)
	ok(t, v.stage(m.Server, mountCapability("ext4")))
	dead := v.device()
	m.tool("cp", "--sparse=always", v.image, v.image+".new")
	v.image += ".new"
	v.connect()
	t.Cleanup(func() { m.tool("losetup", "--detach", dead) })
	if v.device() == dead {
		t.Fatalf("%s is the same device", dead)
	}
	ok(t, v.publish(m.Server, mountCapability("ext4"), v.target, false))
	device, err := m.device(context.Background(), v.id)
	ok(t, err)
	for _, path := range []string{v.staging, v.target} {
		mounts, err := m.mountsAt(path)
		ok(t, err)
		if len(mounts) != 1 || mounts[0].Device != device.Number {
			t.Errorf("%s: %+v, want one mount of %s", filepath.Base(path), mounts, device.Path)
		}
	}
}
