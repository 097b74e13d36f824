package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// prepare leaves a file system on a device that is not mounted, and returns
// its type: it formats a blank device, and checks, repairs and grows what is
// there. Where the request names no type, what is there is right.
func (s *Server) prepare(ctx context.Context, volume string, device Device, a access) (fsType string, err error) {
	found, err := s.probe(ctx, device)
	if err != nil {
		return "", err
	}
	again, err := s.wasInterrupted(volume, device, found)
	if err != nil {
		return "", err
	}
	if again {
		return a.fsType, s.format(ctx, volume, device, a.fsType)
	}
	if !a.named && supported(found) {
		a.fsType = found
	}
	switch {
	case found == a.fsType && device.ReadOnly:
		return a.fsType, nil
	case found == a.fsType:
		return a.fsType, s.check(ctx, device, a.fsType)
	case found != "":
		return "", fmt.Errorf("device has %s, not %s: %w", found, a.fsType, ErrForeign)
	case device.ReadOnly:
		return "", fmt.Errorf("device is read-only and has no file system: %w", ErrPrecondition)
	}
	blank, err := s.host.Blank(device.Path)
	if err != nil {
		return "", fmt.Errorf("read ends of device %s: %w", device.Path, err)
	}
	if !blank {
		return "", fmt.Errorf("device has data that is no file system: %w", ErrForeign)
	}
	return a.fsType, s.format(ctx, volume, device, a.fsType)
}

// probe returns what blkid finds on a device, or "" for nothing.
func (s *Server) probe(ctx context.Context, device Device) (string, error) {
	const nothing, ambivalent = 2, 8 // exit codes, blkid(8)
	output, code, err := s.host.Run(ctx, "blkid", "-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device.Path)
	switch {
	case err != nil:
		return "", err
	case code == nothing:
		return "", nil
	case code == ambivalent:
		return "several conflicting signatures", nil
	case code != 0:
		return "", fmt.Errorf("run blkid: exit code %d: %s", code, output)
	}
	table := ""
	for line := range strings.Lines(output) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "TYPE":
			return value, nil
		case "PTTYPE":
			table = "a partition table (" + value + ")"
		}
	}
	return table, nil
}

// format makes a file system, between making and removing the marker.
func (s *Server) format(ctx context.Context, volume string, device Device, fsType string) error {
	if err := s.mark(volume); err != nil {
		return err
	}
	// Nothing to discard on a blank device, and the journal would record it.
	// ext4 would choose 1 KiB blocks for small volumes; the journal likes 4.
	tool, args := "mkfs.ext4", []string{"-F", "-q", "-b", "4096", "-m", "0", "-E", "nodiscard", device.Path}
	if fsType == "xfs" {
		tool, args = "mkfs.xfs", []string{"-f", "-q", "-K", device.Path}
	}
	s.log.Info("format volume", "volume", volume, "device", device.Path, "fsType", fsType)
	output, code, err := s.host.Run(ctx, tool, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("run %s: exit code %d: %s", tool, code, output)
	}
	if err != nil {
		return err
	}
	return s.unmark(volume)
}

// check replays and repairs an ext4 file system and grows it to its device
// while that needs no privilege beyond writing. xfs replays its log when it is
// mounted, and is grown then.
func (s *Server) check(ctx context.Context, device Device, fsType string) error {
	if fsType != "ext4" {
		return nil
	}
	size, err := s.host.Ext4Bytes(device.Path)
	if err != nil {
		return err
	}
	args := []string{"-p", device.Path}
	grow := growable(size, device)
	if grow {
		args = []string{"-p", "-f", device.Path} // resize2fs insists on a full check
	}
	const corrected, uncorrected = 1 | 2, 4 // bits of the exit code, e2fsck(8)
	output, code, err := s.host.Run(ctx, "e2fsck", args...)
	switch {
	case err != nil:
		return err
	case code&^(corrected|uncorrected) != 0:
		return fmt.Errorf("run e2fsck: exit code %d: %s", code, output)
	case code&uncorrected != 0:
		return fmt.Errorf("e2fsck wants to be run by hand: %s: %w", output, ErrDamaged)
	case !grow:
		return nil
	}
	return s.resizeExt4(ctx, device)
}

// growable reports whether a file system leaves room on its device that it
// could use: a block at least.
func growable(fsBytes int64, device Device) bool { return device.SizeBytes-fsBytes >= 4096 }

// grow makes a mounted file system as big as its device. It does nothing, and
// needs no privilege, if that is so already.
func (s *Server) grow(ctx context.Context, device Device, m Mount) error {
	if m.SuperReadOnly {
		return nil
	}
	if m.FSType == "xfs" {
		output, code, err := s.host.Run(ctx, "xfs_growfs", "-d", m.Point)
		if err == nil && code != 0 {
			err = fmt.Errorf("run xfs_growfs: exit code %d: %s", code, output)
		}
		return err
	}
	size, err := s.host.Ext4Bytes(device.Path)
	if err != nil || !growable(size, device) {
		return err
	}
	return s.resizeExt4(ctx, device)
}

func (s *Server) resizeExt4(ctx context.Context, device Device) error {
	output, code, err := s.host.Run(ctx, "resize2fs", device.Path)
	switch {
	case err != nil:
		return err
	case code == 0:
		return nil
	case strings.Contains(output, "Permission denied to resize filesystem"):
		// ext4 wants CAP_SYS_RESOURCE for EXT4_IOC_RESIZE_FS.
		return fmt.Errorf("the kernel lets only a process with CAP_SYS_RESOURCE grow a mounted ext4; "+
			"grant it, or unstage and stage the volume, which grows it too: %w", ErrPrecondition)
	}
	return fmt.Errorf("run resize2fs: exit code %d: %s", code, output)
}

// A marker says that a volume was blank when mkfs was begun on this node, and that mkfs
// has not ended here. Making and removing it is durable on return. It says nothing of
// what became of the volume on other nodes.

// wasInterrupted reports whether mkfs is to be run again because it was interrupted
// here, and nothing was written to the volume since, here or elsewhere. A marker that
// does not mean that any more is removed. found is what blkid has found on the device.
func (s *Server) wasInterrupted(volume string, device Device, found string) (bool, error) {
	marked, err := s.isMarked(volume)
	if err != nil || !marked || device.ReadOnly {
		return false, err
	}
	if found == "" {
		// Whatever has been mounted has a signature, but blkid finds none either on a
		// device that cannot be read.
		_, err := s.host.Blank(device.Path)
		return err == nil, err
	}
	fresh, err := s.host.Fresh(device.Path, found)
	if err != nil || fresh {
		return fresh, err
	}
	s.log.Warn("mkfs was interrupted on this node, and the volume has a file system: it is left alone", "volume", volume, "device", device.Path, "found", found)
	return false, s.unmark(volume)
}

func (s *Server) markerPath(volume string) string {
	return filepath.Join(s.cfg.StateDir, "formatting-"+volume)
}

func (s *Server) isMarked(volume string) (bool, error) {
	_, err := os.Stat(s.markerPath(volume))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (s *Server) mark(volume string) error {
	file, err := os.Create(s.markerPath(volume))
	if err != nil {
		return fmt.Errorf("mark volume as being formatted: %w", err)
	}
	return errors.Join(file.Close(), s.syncStateDir())
}

func (s *Server) unmark(volume string) error {
	err := os.Remove(s.markerPath(volume))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmark formatted volume: %w", err)
	}
	return s.syncStateDir()
}

func (s *Server) syncStateDir() error {
	dir, err := os.Open(s.cfg.StateDir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
