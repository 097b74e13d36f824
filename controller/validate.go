package controller

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// maxNameBytes is CSI's general limit of strings.
const maxNameBytes = 128

// validName checks a name from a request: 1 to 128 bytes of UTF-8 without the
// control characters that CSI bans.
func validName(what, name string) error {
	if name == "" || len(name) > maxNameBytes || !utf8.ValidString(name) {
		return fmt.Errorf("want a %s of 1 to %d bytes of UTF-8", what, maxNameBytes)
	}
	for _, r := range name {
		if unicode.IsControl(r) && r != '\t' && r != '\n' && r != '\r' {
			return fmt.Errorf("%s has the control character %U", what, r)
		}
	}
	return nil
}

// requireName is validName for a REQUIRED field.
func requireName(field, value string) error {
	if err := validName(field, value); err != nil {
		return invalid("%v", err)
	}
	return nil
}

func validFSType(fsType string) error {
	switch fsType {
	case "", "ext4", "xfs":
		return nil
	}
	return fmt.Errorf("want ext4 or xfs")
}

// checkCapabilities checks that a volume can have all of the capabilities.
func checkCapabilities(capabilities []*csi.VolumeCapability) error {
	if len(capabilities) == 0 {
		return invalid("volume capabilities are missing")
	}
	for _, c := range capabilities {
		if err := checkCapability(c); err != nil {
			return err
		}
	}
	return nil
}

func checkCapability(c *csi.VolumeCapability) error {
	switch {
	case c == nil:
		return invalid("volume capability is missing")
	case c.GetMount() == nil && c.GetBlock() == nil:
		return invalid("volume capability has no access type")
	}
	if err := validFSType(c.GetMount().GetFsType()); err != nil {
		return invalid("file system %q: %v", c.GetMount().GetFsType(), err)
	}
	switch mode := c.GetAccessMode().GetMode(); mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
		return nil
	case csi.VolumeCapability_AccessMode_UNKNOWN:
		return invalid("volume capability has no access mode")
	default:
		return invalid("access mode %s is not supported: one engine on one node owns a volume's journal; use a SINGLE_NODE mode", mode)
	}
}
