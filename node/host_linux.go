package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

const (
	mountInfoFile = "/proc/self/mountinfo"
	// blankProbeBytes is how much of each end of a device has to be zero. File
	// systems, partition tables, RAID and LVM all have their headers there.
	blankProbeBytes = 1 << 20
)

// linux is this machine.
type linux struct{ mounter mount.Interface }

// NewHost returns the machine that this process runs on. It needs
// CAP_SYS_ADMIN, blkid, and the tools of ext4 and xfs.
func NewHost() Host { return linux{mount.NewWithoutSystemd("")} }

func (linux) Device(path string) (Device, error) {
	file, err := os.Open(path)
	if err != nil {
		return Device{}, fmt.Errorf("open device: %w", err)
	}
	defer file.Close() //nolint:errcheck // opened for reading only
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return Device{}, fmt.Errorf("stat device %s: %w", path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Device{}, fmt.Errorf("%s is not a block device", path)
	}
	size, err := deviceBytes(file)
	if err != nil {
		return Device{}, fmt.Errorf("get size of device %s: %w", path, err)
	}
	readOnly, err := unix.IoctlGetInt(int(file.Fd()), unix.BLKROGET)
	if err != nil {
		return Device{}, fmt.Errorf("get mode of device %s: %w", path, err)
	}
	return Device{Path: path, Number: numberOf(stat.Rdev), SizeBytes: size, ReadOnly: readOnly != 0}, nil
}

func deviceBytes(file *os.File) (int64, error) {
	var size uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, errno
	}
	return int64(size), nil
}

func numberOf(dev uint64) DeviceNumber {
	return DeviceNumber{Major: unix.Major(dev), Minor: unix.Minor(dev)}
}

func (linux) Mounts() ([]Mount, error) {
	lines, err := mount.ParseMountInfo(mountInfoFile)
	if err != nil {
		return nil, err
	}
	out := make([]Mount, 0, len(lines))
	for _, line := range lines {
		m := Mount{
			Point: unescape(line.MountPoint), Root: unescape(line.Root), FSType: line.FsType,
			Device:        DeviceNumber{Major: uint32(line.Major), Minor: uint32(line.Minor)},
			ReadOnly:      slices.Contains(line.MountOptions, "ro"),
			SuperReadOnly: slices.Contains(line.SuperOptions, "ro"),
		}
		m.Node = nodeAt(m)
		out = append(out, m)
	}
	return out, nil
}

// nodeAt returns which device node is mounted, if one is. Only the kinds of
// file systems that /dev can be are looked at: others may hang.
func nodeAt(m Mount) DeviceNumber {
	if m.Root == "/" || !slices.Contains([]string{"devtmpfs", "tmpfs", "overlay"}, m.FSType) {
		return DeviceNumber{}
	}
	var stat unix.Stat_t
	if unix.Lstat(m.Point, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return DeviceNumber{}
	}
	return numberOf(stat.Rdev)
}

// unescape undoes the octal escapes of proc(5).
func unescape(text string) string {
	var out strings.Builder
	for len(text) > 0 {
		if text[0] == '\\' && len(text) >= 4 {
			if n, err := strconv.ParseUint(text[1:4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				text = text[4:]
				continue
			}
		}
		out.WriteByte(text[0])
		text = text[1:]
	}
	return out.String()
}

func (l linux) MountDevice(device, target, fsType string, options, sensitive []string) error {
	return l.mounter.MountSensitive(device, target, fsType, options, sensitive)
}

// Bind makes the mount aside, restricts it and only then moves it into place;
// the older two-step way, bind and remount, would leave a writable mount
// behind if this process were killed in between. open_tree(2) and
// mount_setattr(2) need Linux 5.12.
func (linux) Bind(source, target string, readOnly bool) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone mount of %s: %w", source, err)
	}
	defer unix.Close(tree) //nolint:errcheck // the mount stays where it was moved
	if readOnly {
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
			return fmt.Errorf("make mount of %s read-only: %w", source, err)
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

// Unmount has another process do it. While that waits for a device without an
// engine it cannot be killed, and a thread in such a wait would keep the
// descriptors of this process open, the one among them that the engine is to be
// handed. umount(8) is told not to look at the path, which would fail or wait on
// a device that is dead.
func (linux) Unmount(target string) error {
	output, err := exec.Command("umount", "--no-canonicalize", "--internal-only", target).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unmount %s: %w: %s", target, err, strings.TrimSpace(string(output)))
	}
	return nil
}

func (linux) Run(ctx context.Context, tool string, args ...string) (string, int, error) {
	command := exec.CommandContext(ctx, tool, args...)
	command.Env = append(os.Environ(), "LC_ALL=C")
	output, err := command.CombinedOutput()
	text := strings.TrimSpace(string(output))
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return text, -1, fmt.Errorf("run %s: %w", tool, ctx.Err())
	case errors.As(err, &exit) && exit.Exited():
		return text, exit.ExitCode(), nil
	case err != nil:
		return text, -1, fmt.Errorf("run %s: %w", tool, err)
	}
	return text, 0, nil
}

func (linux) Blank(path string) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close() //nolint:errcheck // opened for reading only
	size, err := deviceBytes(file)
	if err != nil {
		return false, fmt.Errorf("get size of device %s: %w", path, err)
	}
	probe := min(size, blankProbeBytes)
	buffer, zeroes := make([]byte, probe), make([]byte, probe)
	for _, offset := range []int64{0, size - probe} {
		if _, err := file.ReadAt(buffer, offset); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !bytes.Equal(buffer, zeroes) {
			return false, nil
		}
	}
	return true, nil
}

// Places in an ext4 superblock, from "The Linux Kernel documentation, ext4
// Data Structures and Algorithms, Super Block".
const (
	ext4SuperOffset   = 1024
	ext4SuperBytes    = 1024
	ext4BlocksLow     = 0x04
	ext4LogBlockSize  = 0x18
	ext4Magic         = 0x38
	ext4Incompatible  = 0x60
	ext4BlocksHigh    = 0x150
	ext4MagicValue    = 0xEF53
	ext4Feature64Bit  = 0x80
	ext4MaxLogBlock   = 6
	ext4SmallestBlock = 1024
)

func (linux) Ext4Bytes(path string) (int64, error) {
	super, err := readSuper(path, ext4SuperOffset, ext4SuperBytes)
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	logBlock := le.Uint32(super[ext4LogBlockSize:])
	if le.Uint16(super[ext4Magic:]) != ext4MagicValue || logBlock > ext4MaxLogBlock {
		return 0, fmt.Errorf("read superblock of %s: not ext4", path)
	}
	blocks := uint64(le.Uint32(super[ext4BlocksLow:]))
	if le.Uint32(super[ext4Incompatible:])&ext4Feature64Bit != 0 {
		blocks |= uint64(le.Uint32(super[ext4BlocksHigh:])) << 32
	}
	return int64(blocks * (ext4SmallestBlock << logBlock)), nil
}
