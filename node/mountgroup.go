package node

import (
	"context"
	"errors"
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
//
// Pods that use the volume already may change it meanwhile. No link that they put
// in the way leads out of it, and what they remove is left out.
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
	tree, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer tree.Close() //nolint:errcheck // nothing is written through it
	err = giveBelow(ctx, tree, ".", int(id))
	if err == nil {
		err = giveOne(tree, ".", int(id))
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

// giveBelow gives what is below the directory dir of a tree. It uses no io/fs, which
// does not take names that are no UTF-8.
func giveBelow(ctx context.Context, tree *os.Root, dir string, group int) error {
	names, err := namesIn(tree, dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := filepath.Join(dir, name)
		err := giveOne(tree, path, group)
		if err == nil {
			var info fs.FileInfo
			if info, err = tree.Lstat(path); err == nil && info.IsDir() {
				err = giveBelow(ctx, tree, path, group)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func namesIn(tree *os.Root, dir string) ([]string, error) {
	f, err := tree.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	return names, errors.Join(err, f.Close())
}

func giveOne(tree *os.Root, path string, group int) error {
	// The mode is that of before: a change of the group takes set-user-id from a program.
	info, err := tree.Lstat(path)
	if err == nil {
		err = tree.Lchown(path, -1, group)
	}
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	mode := info.Mode() | 0o060
	if info.IsDir() {
		mode |= 0o010 | fs.ModeSetgid
	} else if info.Mode()&0o100 != 0 {
		mode |= 0o010
	}
	return tree.Chmod(path, mode)
}
