package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// File is a file that is being written under a hidden name, and gets its own name
// when it is whole.
type File struct {
	name, hidden string
	force        bool
	file         *os.File
}

var (
	// ErrExists: the file is there, and may not be replaced.
	ErrExists = errors.New("file exists")
)

// CreateFile begins a file. Where one of the name exists it is replaced at the
// end if force is set; without, ErrExists.
func CreateFile(name string, force bool) (*File, error) {
	f := &File{name: name, force: force}
	if real, err := filepath.EvalSymlinks(name); err == nil {
		f.name = real // the link stays
	}
	switch info, err := os.Stat(f.name); {
	case errors.Is(err, fs.ErrNotExist):
		// A link there would be in the way of the name, or lose it, when all is written.
		if _, err := os.Lstat(f.name); err == nil {
			return nil, fmt.Errorf("create %s: it is a symbolic link that leads to nothing", name)
		}
	case err != nil:
		return nil, fmt.Errorf("create %s: %w", name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("create %s: it is neither a file nor a block device", name)
	case !force:
		return nil, fmt.Errorf("create %s: %w", name, ErrExists)
	}
	dir, base := filepath.Split(f.name)
	f.hidden = filepath.Join(dir, "."+base+".lockstep-partial")
	return f, f.openHidden()
}

// openHidden opens the file under its hidden name. One that a process which is
// no more has left there is taken over, unless it had been given another name as well:
// then it is an image, or the base of a store that may be in use, and only the hidden
// name of it goes.
func (f *File) openHidden() error {
	for {
		file, err := os.OpenFile(f.hidden, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("create %s: %w", f.name, err)
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		var leave bool
		if err == nil {
			leave, err = f.isTaken(file)
		}
		if err == nil && leave {
			if err := file.Close(); err != nil {
				return fmt.Errorf("create %s: %w", f.name, err)
			}
			continue
		}
		if err == nil {
			err = file.Truncate(0)
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another process is writing it")
		}
		if err != nil {
			return fmt.Errorf("create %s: %w", f.name, errors.Join(err, file.Close()))
		}
		f.file = file
		return nil
	}
}

// isTaken reports whether what was opened under the hidden name is not for us: its writer
// has just finished, or was killed when it had a second name, and then loses this one.
func (f *File) isTaken(file *os.File) (bool, error) {
	if !isNamed(file, f.hidden) {
		return true, nil
	}
	names, err := namesOf(file)
	if err != nil || names == 1 {
		return false, err
	}
	return true, os.Remove(f.hidden)
}

// isNamed reports whether an open file still has a name.
func isNamed(file *os.File, name string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(name)
	return err == nil && os.SameFile(opened, there)
}

// namesOf is how many names (hard links) an open file has.
func namesOf(file *os.File) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", file.Name(), err)
	}
	return int(st.Nlink), nil
}

// Commit gives the file its name; durable on return. After an error nothing is
// left of it, unless it is the very last sync that failed.
func (f *File) Commit() error {
	if err := f.file.Sync(); err != nil {
		return f.fail("sync", err)
	}
	if err := f.rename(); err != nil {
		return f.fail("rename", err)
	}
	if err := f.file.Close(); err != nil {
		return fmt.Errorf("close %s: %w", f.name, err)
	}
	dir, err := os.Open(filepath.Dir(f.name))
	if err != nil {
		return fmt.Errorf("sync directory of %s: %w", f.name, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync directory of %s: %w", f.name, err)
	}
	return nil
}

// rename keeps, unless it is forced, a file that somebody else has made since.
func (f *File) rename() error {
	if f.force {
		return os.Rename(f.hidden, f.name)
	}
	err := unix.Renameat2(unix.AT_FDCWD, f.hidden, unix.AT_FDCWD, f.name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return ErrExists
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // the file system cannot do that
		if err = os.Link(f.hidden, f.name); err == nil {
			err = os.Remove(f.hidden)
		}
	}
	return err
}

func (f *File) fail(what string, err error) error {
	return fmt.Errorf("%s %s: %w", what, f.name, errors.Join(err, f.Abort()))
}

// Abort removes the file.
func (f *File) Abort() error {
	err := os.Remove(f.hidden)
	return errors.Join(err, f.file.Close())
}

// CommitHidden makes the file durable and leaves it under its hidden name, which
// it returns: for who gives it a name of its own, and calls Release then. Until that
// nobody else begins a file of its name.
func (f *File) CommitHidden() (string, error) {
	if err := f.file.Sync(); err != nil {
		return "", f.fail("sync", err)
	}
	return f.hidden, nil
}

// Release lets go of the file that CommitHidden left. It is durable already.
func (f *File) Release() error { return f.file.Close() }
