package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

const (
	fileMode = 0o600
	dirMode  = 0o700
)

// OS is the machine's file system. Names are used as they are given, relative
// ones from the working directory. The zero value is ready.
type OS struct{}

var _ FS = OS{}

// Create implements FS with O_EXCL.
func (OS) Create(name string) (File, error) {
	return openOS("create", name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
}

// Open implements FS.
func (OS) Open(name string) (File, error) {
	return openOS("open", name, unix.O_RDWR)
}

// OpenReadOnly implements FS.
func (OS) OpenReadOnly(name string) (File, error) {
	return openOS("open", name, unix.O_RDONLY)
}

func openOS(op, name string, flags int) (File, error) {
	fd, err := openFD(name, flags)
	if err != nil {
		return nil, wrap(op, name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd) // the error that matters is Fstat's
		return nil, wrap(op, name, err)
	}
	// Linux opens a directory for reading and then fails every read.
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		_ = unix.Close(fd) // nothing was written through it
		return nil, wrap(op, name, unix.EISDIR)
	}
	return &osFile{name: name, fd: fd, readOnly: flags&unix.O_RDWR == 0}, nil
}

func openFD(name string, flags int) (int, error) {
	fd := -1
	err := ignoringEINTR(func() (err error) {
		fd, err = unix.Open(name, flags|unix.O_CLOEXEC, fileMode)
		return err
	})
	return fd, err
}

// Remove implements FS.
func (OS) Remove(name string) error { return wrap("remove", name, os.Remove(name)) }

// RemoveAll implements FS.
func (OS) RemoveAll(name string) error { return wrap("remove", name, os.RemoveAll(name)) }

// Rename implements FS.
func (OS) Rename(oldname, newname string) error {
	// os.Rename would refuse an empty directory as the target.
	err := ignoringEINTR(func() error { return unix.Rename(oldname, newname) })
	return wrap("rename", oldname+" to "+newname, err)
}

// Link implements FS. A symbolic link is not followed.
func (OS) Link(oldname, newname string) error {
	return wrap("link", oldname+" to "+newname, ignoringEINTR(func() error { return unix.Link(oldname, newname) }))
}

// MkdirAll implements FS.
func (OS) MkdirAll(name string) error {
	return wrap("make directory", name, os.MkdirAll(name, dirMode))
}

// ReadDir implements FS.
func (OS) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, wrap("read directory", name, err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Stat implements FS.
func (OS) Stat(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, wrap("stat", name, err)
	}
	if info.IsDir() {
		return 0, nil
	}
	return info.Size(), nil
}

// SyncDir implements FS. After an error it is unknown which names are
// durable: never retry.
func (OS) SyncDir(name string) error {
	fd, err := openFD(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return wrap("sync directory", name, err)
	}
	err = ignoringEINTR(func() error { return unix.Fsync(fd) })
	_ = unix.Close(fd) // nothing was written through it
	return wrap("sync directory", name, err)
}

// Lock implements FS with flock(2), which belongs to the open file: a second
// holder in the same process is refused too, and the kernel lets go when the
// process is gone.
func (OS) Lock(name string) (io.Closer, error) {
	fd, err := openFD(name, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return nil, wrap("lock", name, err)
	}
	err = ignoringEINTR(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		_ = unix.Close(fd) // nothing was written through it
		return nil, wrap("lock", name, err)
	}
	return &osLock{name: name, fd: fd}, nil
}

type osLock struct {
	name string
	once sync.Once
	fd   int
}

// Close lets go of the lock. The file stays: removing it would let two
// holders lock two files of the same name.
func (l *osLock) Close() error {
	err := fmt.Errorf("unlock %s: %w", l.name, ErrClosed)
	l.once.Do(func() { err = wrap("unlock", l.name, unix.Close(l.fd)) })
	return err
}

// OpenDB implements FS with Bolt. Its name is durable on return.
func (OS) OpenDB(name string) (kv.DB, error) {
	db, err := kv.OpenBolt(name)
	if err != nil {
		return nil, withSentinel(err)
	}
	return osDB{db}, nil
}

// osDB gives the errors of a commit this package's sentinels.
type osDB struct{ kv.DB }

func (d osDB) Update(fn func(kv.Tx) error) error { return withSentinel(d.DB.Update(fn)) }

// withSentinel adds the sentinel of what a database returned, if there is one
// and err does not match it yet. The text stays.
func withSentinel(err error) error {
	if errors.Is(err, kv.ErrLocked) {
		return &sentinelError{sentinel: ErrLocked, cause: err}
	}
	var errno unix.Errno
	if err == nil || !errors.As(err, &errno) {
		return err
	}
	sentinel := sentinelOf(errno)
	if sentinel == nil || errors.Is(err, sentinel) {
		return err
	}
	return &sentinelError{sentinel: sentinel, cause: err}
}

type sentinelError struct{ sentinel, cause error }

func (e *sentinelError) Error() string   { return e.cause.Error() }
func (e *sentinelError) Unwrap() []error { return []error{e.sentinel, e.cause} }

// Space implements FS. Free bytes are those that an unprivileged process may
// use (f_bavail in statfs(2)).
func (OS) Space(name string) (totalBytes, freeBytes int64, err error) {
	var st unix.Statfs_t
	err = ignoringEINTR(func() error { return unix.Statfs(name, &st) })
	if err != nil {
		return 0, 0, wrap("read free space of", name, err)
	}
	unit := st.Frsize
	return int64(st.Blocks) * unit, int64(st.Bavail) * unit, nil
}

// ignoringEINTR repeats a system call that a signal interrupted. The Go
// runtime sends itself signals, and network and FUSE file systems let them
// through.
func ignoringEINTR(call func() error) error {
	for {
		err := call()
		if err != unix.EINTR { // the calls return bare errnos
			return err
		}
	}
}
