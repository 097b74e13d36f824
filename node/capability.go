package node

import (
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lockstep-csi/lockstep/internal/csikeys"
)

// defaultFSType is used when neither the capability nor the volume names one.
const defaultFSType = "ext4"

// access is how a volume is to be used, from the fields that stage and publish
// requests share.
type access struct {
	block    bool
	fsType   string // empty for block
	named    bool   // the capability named fsType
	flags    []string
	group    string
	readOnly bool
	mode     csi.VolumeCapability_AccessMode_Mode
}

// forbiddenFlags would make mount(8) do something else than mount the device.
var forbiddenFlags = []string{"bind", "rbind", "move", "remount", "loop", "shared", "rshared", "private", "rprivate", "slave", "rslave"}

func accessOf(c *csi.VolumeCapability, volumeContext, publishContext map[string]string) (access, error) {
	a := access{mode: c.GetAccessMode().GetMode(), block: c.GetBlock() != nil}
	switch {
	case c == nil:
		return a, invalid("volume capability is missing")
	case c.GetBlock() == nil && c.GetMount() == nil:
		return a, invalid("volume capability has no access type")
	case a.mode == csi.VolumeCapability_AccessMode_UNKNOWN:
		return a, invalid("volume capability has no access mode")
	case strings.HasPrefix(a.mode.String(), "MULTI_NODE_"):
		return a, invalid("access mode %s is not supported", a.mode)
	}
	a.readOnly = a.mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || publishContext[csikeys.ReadOnly] == "true"
	if a.block {
		return a, nil
	}
	mount := c.GetMount()
	a.fsType, a.named = mount.GetFsType(), mount.GetFsType() != ""
	if a.fsType == "" {
		a.fsType = volumeContext[csikeys.FSType]
	}
	if a.fsType == "" {
		a.fsType = defaultFSType
	}
	if !supported(a.fsType) {
		return a, invalid("file system %q: want ext4 or xfs", a.fsType)
	}
	for _, flag := range mount.GetMountFlags() {
		for option := range strings.SplitSeq(flag, ",") {
			if slices.Contains(forbiddenFlags, option) {
				return a, invalid("mount flag %q is not allowed", option)
			}
			if option == "ro" {
				a.readOnly = true
			}
		}
	}
	a.flags, a.group = mount.GetMountFlags(), mount.GetVolumeMountGroup()
	return a, nil
}

func supported(fsType string) bool { return fsType == "ext4" || fsType == "xfs" }

// options returns the mount options of our own.
func (a *access) options() []string {
	var out []string
	if a.readOnly {
		out = append(out, "ro")
	}
	if a.fsType == "xfs" {
		// A restored or cloned volume has the UUID of its source, and xfs
		// mounts no two of one UUID otherwise.
		out = append(out, "nouuid")
	}
	return out
}
