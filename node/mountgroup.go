package node

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// giveToGroup makes everything below a mounted directory usable by a numeric
// group, and what is made there later belong to it. ext4 and xfs have no mount
// option for that, so the files themselves are changed: their group, access
// for it, and the set-group-id bit of directories.
//
// The root comes last and tells that the rest is done: a call that finds it
// right changes nothing, one that was interrupted is repeated in full.
func giveToGroup(ctx context.Context, root, group string) error {
	if group == "" {
		return nil
	}
	id, err := strconv.ParseUint(group, 10, 31)
	if err != nil {
		return invalid("volume mount group %q is not a group id", group)
	}
	info, err := os.Stat(root)
	if err != nil {
		return err
	}
	if belongs(info, uint32(id)) {
		return nil
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if path == root {
			return nil
		}
		return giveOne(path, entry.Type(), int(id))
	})
	if err == nil {
		err = giveOne(root, fs.ModeDir, int(id))
	}
	if err != nil {
		return fmt.Errorf("give files to group %d: %w", id, err)
	}
	return nil
}

func belongs(info fs.FileInfo, group uint32) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Gid == group && info.Mode()&fs.ModeSetgid != 0 && info.Mode().Perm()&0o070 == 0o070
}

func giveOne(path string, kind fs.FileMode, group int) error {
	if err := os.Lchown(path, -1, group); err != nil {
		return err
	}
	if kind&fs.ModeSymlink != 0 {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	mode := info.Mode() | 0o060
	if info.IsDir() {
		mode |= 0o010 | fs.ModeSetgid
	} else if info.Mode()&0o100 != 0 {
		mode |= 0o010
	}
	return os.Chmod(path, mode)
}
