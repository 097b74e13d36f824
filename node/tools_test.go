package node

import (
	"context"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// leavingHost is the real machine for a call whose caller gives up when a tool begins.
type leavingHost struct {
	Host
	tool  string
	leave context.CancelFunc
	left  bool
}

func (h *leavingHost) Run(ctx context.Context, tool string, args ...string) (string, int, error) {
	if tool == h.tool {
		h.left = true
		h.leave()
	}
	return h.Host.Run(ctx, tool, args...)
}

// TestToolsAreNotCutOff has the caller of a stage give up while a tool changes the file
// system: a kubelet does that after 2 min, and would kill the same tool again each time.
func TestToolsAreNotCutOff(t *testing.T) {
	needRoot(t)
	for _, tool := range []string{"mkfs.ext4", "e2fsck", "resize2fs"} {
		t.Run(tool, func(t *testing.T) {
			m := newMachine(t)
			v := m.attach("a", 32*mib)
			if tool != "mkfs.ext4" {
				ok(t, v.stage(m.Server, mountCapability("ext4")), v.unstage(m.Server))
				v.resize(64 * mib)
			}
			ctx, leave := context.WithCancel(t.Context())
			host := &leavingHost{Host: NewHost(), tool: tool, leave: leave}
			_, err := m.restart(host).NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
				VolumeId: v.id, StagingTargetPath: v.staging, VolumeCapability: mountCapability("ext4"),
			})
			if ok(t, err); !host.left {
				t.Errorf("staging ran no %s", tool)
			}
			if marked, err := m.isMarked(v.id); marked || err != nil {
				t.Errorf("marked %t, %v", marked, err)
			}
		})
	}
}
