package kv

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/kv/pagecheck"
)

// lockPoll is how often a lock that another has is asked for again.
const lockPoll = 10 * time.Millisecond

// openChecked opens the file of a database that is there, locks it, and checks
// what is on the disk, before Bolt reads any of it. Everyone who writes to it
// through Bolt takes the same lock, so that what was checked is what Bolt gets;
// whoever writes past the lock is not kept from it.
//
// An empty file is damage too: Bolt would make a new database of it.
func openChecked(path string, flag int, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag&^os.O_CREATE, mode)
	if err != nil {
		return nil, err
	}
	if err = lockFile(f); err == nil {
		err = forgetCached(f)
	}
	if err == nil {
		err = checkFile(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockFile waits up to lockTimeout for the lock that Bolt takes.
func lockFile(f *os.File) error {
	for waited := time.Duration(0); ; waited += lockPoll {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		case waited >= lockTimeout:
			return ErrLocked
		}
		time.Sleep(lockPoll)
	}
}

// forgetCached has what is read next come from the disk. After a commit whose
// sync failed, the page cache holds pages as clean that the disk never got: a
// later commit would build on them, and a power loss after it would leave a
// database that refers to what is not there.
func forgetCached(f *os.File) error {
	if err := unix.Fdatasync(int(f.Fd())); err != nil { // pages that are dirty are not dropped
		return &fs.PathError{Op: "sync", Path: f.Name(), Err: err}
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // best effort
	return nil
}

func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return pagecheck.Check(f, info.Size())
}
