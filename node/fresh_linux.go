package node

import (
	"encoding/binary"
	"fmt"
	"os"
)

// What of a superblock tells a file system that was used from one that mkfs has left.
const (
	// ext4MountTime is when the file system was mounted last to be written to; 0: never.
	ext4MountTime = 0x2c
	// xfsInProgress is not 0 until mkfs.xfs has written everything; "XFS Filesystem
	// Disk Structures", Superblocks. xfsMagic is at the beginning.
	xfsInProgress = 126
	xfsSuperBytes = 512
	xfsMagic      = "XFSB"
)

func (linux) Fresh(path, fsType string) (bool, error) {
	switch fsType {
	case "ext4":
		super, err := readSuper(path, ext4SuperOffset, ext4SuperBytes)
		if err != nil {
			return false, err
		}
		return binary.LittleEndian.Uint32(super[ext4MountTime:]) == 0, nil
	case "xfs":
		super, err := readSuper(path, 0, xfsSuperBytes)
		if err != nil {
			return false, err
		}
		return string(super[:len(xfsMagic)]) != xfsMagic || super[xfsInProgress] != 0, nil
	}
	return false, nil
}

func readSuper(path string, offset, size int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // opened for reading only
	super := make([]byte, size)
	if _, err := file.ReadAt(super, offset); err != nil {
		return nil, fmt.Errorf("read superblock of %s: %w", path, err)
	}
	return super, nil
}
