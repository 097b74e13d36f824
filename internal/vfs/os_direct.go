package vfs

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// directFD is a second descriptor of a file, for direct writes. It is opened by
// the first of them, because few files have any.
type directFD struct {
	once    sync.Once
	fd      int
	opened  bool
	refused atomic.Bool
}

// of returns the descriptor, or ErrNoDirect. It may be called concurrently, while
// the file's own descriptor is kept open.
func (d *directFD) of(fd int) (int, error) {
	d.once.Do(func() {
		// By its number, because another file may have the name by now.
		direct, err := openFD(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_DIRECT)
		d.fd, d.opened = direct, err == nil
		d.refused.Store(err != nil)
	})
	if d.refused.Load() {
		return -1, ErrNoDirect
	}
	return d.fd, nil
}

// close may be called when nobody uses the descriptor any more.
func (d *directFD) close() {
	d.once.Do(func() {})
	if d.opened {
		_ = unix.Close(d.fd) // errors of direct writes were told by them
	}
}

// WriteDirectAt implements File with O_DIRECT, which Linux keeps coherent with the
// page cache: pages of the range are written back and dropped before the write,
// and dropped again behind it, whoever read them meanwhile.
func (f *osFile) WriteDirectAt(p []byte, off int64) (int, error) {
	if err := f.acquire("write directly", true); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	fd, err := f.direct.of(f.fd)
	if err != nil {
		return 0, wrap("write directly", f.name, err)
	}
	n, err := pwriteAll(fd, p, off)
	switch {
	case errors.Is(err, unix.EINVAL) && isAligned(p, off):
		// A file system that wants more than DirectAlignBytes.
		f.direct.refused.Store(true)
		err = ErrNoDirect
	case errors.Is(err, io.ErrShortWrite), errors.Is(err, unix.EOPNOTSUPP):
		err = ErrNoDirect
	}
	return n, wrap("write directly", f.name, err)
}

// readAheadBytes is how much the kernel takes of one call for reading ahead, unless
// the disk is set to more.
const readAheadBytes = 128 << 10

// StartRead implements File with posix_fadvise(2), which cuts what it is asked for
// down to what the disk reads ahead.
func (f *osFile) StartRead(off, length int64) {
	if err := f.acquire("read ahead", false); err != nil {
		return
	}
	defer f.mu.RUnlock()
	for ; length > 0; off, length = off+readAheadBytes, length-readAheadBytes {
		_ = unix.Fadvise(f.fd, off, min(length, readAheadBytes), unix.FADV_WILLNEED) // best effort
	}
}
