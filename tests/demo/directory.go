package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// dirVariable names the environment variable that chooses the directory.
	dirVariable = "LOCKSTEP_DEMO_DIR"
	// neededBytes is what two sites' stores take up by the end, and some more.
	neededBytes = 4 << 30
	// mayEnter is the permission of everyone to get through a directory.
	mayEnter fs.FileMode = 0o001
)

// checkDirectory says why the sites cannot be in a directory, and what to do
// about it.
func checkDirectory(dir string) error {
	err := errors.Join(checkWay(dir), checkSpace(dir))
	if err == nil {
		err = checkFiles(dir)
	}
	if err != nil {
		return fmt.Errorf("%w\nset %s to a directory on ext4, xfs, btrfs or tmpfs with %d GiB free", err, dirVariable, neededBytes>>30)
	}
	return nil
}

// checkWay looks whether PostgreSQL, which runs as another user, gets there.
func checkWay(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for at := abs; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		switch {
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is not a directory", at)
		case info.Mode()&mayEnter == 0:
			return fmt.Errorf("%s lets nobody but its owner through, and PostgreSQL is another user (`chmod o+x` would do)", at)
		case at == filepath.Dir(at):
			return nil
		}
	}
}

func checkSpace(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil // checkWay has said so
	}
	if free := st.Bavail * uint64(st.Bsize); free < neededBytes {
		return fmt.Errorf("the file system of %s has %d MiB free", dir, free>>20)
	}
	return nil
}

// checkFiles makes and removes a file of the kind that journals consist of.
func checkFiles(dir string) error {
	f, err := os.CreateTemp(dir, "lockstep-")
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, 1<<20)
	if err != nil {
		err = fmt.Errorf("no space can be reserved in a file in %s (fallocate: %w)", dir, err)
	}
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}
