package vfs

import (
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// maxIovecs is how many buffers one pwritev(2) takes (IOV_MAX).
	maxIovecs = 1024
	// zeroChunkBytes bounds the memory that PunchHole needs where the file
	// system cannot punch.
	zeroChunkBytes = 64 << 10
)

// osFile holds its own descriptor instead of an *os.File: preadv2, pwritev
// and fallocate need the number, and taking it out of an *os.File for each
// call costs an allocation.
type osFile struct {
	name     string
	readOnly bool
	// noTry is set once the file system has said that it cannot read without
	// waiting, so that each TryReadAt does not ask again.
	noTry atomic.Bool
	// noStream is the same of writes that do not stay in the cache.
	noStream atomic.Bool

	// mu is held for reading by every call that uses fd, so that Close cannot
	// hand the number to another file meanwhile; and for writing by those
	// emulations that must not interleave with writes through this file.
	mu sync.RWMutex
	fd int // -1 after Close; guarded by mu

	direct directFD
}

// acquire takes mu for reading; the caller releases it when err is nil.
func (f *osFile) acquire(op string, writes bool) error {
	if writes && f.readOnly {
		return &opError{op: op, name: f.name, cause: ErrReadOnly}
	}
	f.mu.RLock()
	if f.fd < 0 {
		f.mu.RUnlock()
		return &opError{op: op, name: f.name, cause: ErrClosed}
	}
	return nil
}

// ReadAt implements File.
func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.acquire("read", false); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, wrap("read", f.name, err)
		case n == 0:
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

// ReadVecAt implements File. It is one preadv(2), unless there are more than
// maxIovecs buffers or the kernel gives only a part: then it goes on with each
// buffer that is left.
func (f *osFile) ReadVecAt(bufs [][]byte, off int64) (int, error) {
	done, err := f.readSome(bufs[:min(len(bufs), maxIovecs)], off)
	if err != nil {
		return 0, err
	}
	at := 0 // where the buffer begins, counted from off
	for _, b := range bufs {
		if rest := b[min(max(done-at, 0), len(b)):]; len(rest) > 0 {
			n, err := f.ReadAt(rest, off+int64(done))
			if done += n; err != nil {
				return done, err
			}
		}
		at += len(b)
	}
	return done, nil
}

// readSome is one preadv(2).
func (f *osFile) readSome(bufs [][]byte, off int64) (n int, err error) {
	if err := f.acquire("read", false); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	err = ignoringEINTR(func() (err error) {
		n, err = unix.Preadv(f.fd, bufs, off)
		return err
	})
	return max(n, 0), wrap("read", f.name, err)
}

// WriteAt implements File.
func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.acquire("write", true); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	n, err := pwriteAll(f.fd, p, off)
	return n, wrap("write", f.name, err)
}

func pwriteAll(fd int, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, err
		case n == 0:
			return done, io.ErrShortWrite
		}
		done += n
	}
	return done, nil
}

// WriteVecAt implements File. It is one pwritev(2), unless there are more
// than maxIovecs buffers or the kernel takes only a part: then it goes on with
// the rest, so that a full disk is ErrNoSpace and not just a short count.
func (f *osFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	if err := f.acquire("write", true); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	n, err := pwritevAll(f.fd, bufs, off, 0)
	return n, wrap("write", f.name, err)
}

// StreamVecAt implements File with RWF_DONTCACHE, which Linux has from 6.14 on.
func (f *osFile) StreamVecAt(bufs [][]byte, off int64) (int, error) {
	if f.noStream.Load() {
		return f.WriteVecAt(bufs, off)
	}
	if err := f.acquire("write", true); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	n, err := pwritevAll(f.fd, bufs, off, unix.RWF_DONTCACHE)
	if n == 0 && (err == unix.EOPNOTSUPP || err == unix.ENOSYS) {
		f.noStream.Store(true)
		n, err = pwritevAll(f.fd, bufs, off, 0)
	}
	return n, wrap("write", f.name, err)
}

// pwritevAll writes all of bufs; how is flags of pwritev2(2).
func pwritevAll(fd int, bufs [][]byte, off int64, how int) (done int, err error) {
	for skip := 0; ; { // bytes of bufs[0] that are written
		for len(bufs) > 0 && skip >= len(bufs[0]) {
			skip -= len(bufs[0])
			bufs = bufs[1:]
		}
		if len(bufs) == 0 {
			return done, nil
		}
		n, err := pwriteSome(fd, bufs, skip, off+int64(done), how)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return done, err
		case n == 0:
			return done, io.ErrShortWrite
		}
		done += n
		skip += n
	}
}

// pwriteSome is one system call: the buffers, or what is left of the first
// one when a call before stopped inside it.
func pwriteSome(fd int, bufs [][]byte, skip int, off int64, how int) (int, error) {
	bufs = bufs[:min(len(bufs), maxIovecs)]
	if skip > 0 {
		bufs = [][]byte{bufs[0][skip:]}
	}
	if how == 0 {
		return unix.Pwritev(fd, bufs, off) // also where pwritev2(2) is forbidden
	}
	return unix.Pwritev2(fd, bufs, off, how)
}

// TryReadAt implements File with preadv2(2) and RWF_NOWAIT. A read that is
// short, be it at the end of the file or where the cache ends, is not done.
func (f *osFile) TryReadAt(p []byte, off int64) (bool, error) {
	if err := f.acquire("read", false); err != nil {
		return false, err
	}
	defer f.mu.RUnlock()
	if f.noTry.Load() {
		return false, nil
	}
	n, err := unix.Preadv2(f.fd, [][]byte{p}, off, unix.RWF_NOWAIT)
	switch err {
	case nil:
		return n == len(p), nil
	case unix.EAGAIN, unix.EINTR:
		return false, nil
	case unix.EOPNOTSUPP, unix.ENOSYS:
		f.noTry.Store(true)
		return false, nil
	default:
		return false, wrap("read", f.name, err)
	}
}

// Sync implements File with fdatasync(2), which also makes a changed size
// durable. It is called once, whatever it returns: after a failure the kernel
// marks the pages clean, and a second call would succeed without writing them.
func (f *osFile) Sync() error {
	if err := f.acquire("sync", false); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	return wrap("sync", f.name, unix.Fdatasync(f.fd))
}

// StartWriteback implements File with sync_file_range(2). It waits only when
// the device's request queue is full.
func (f *osFile) StartWriteback(off, length int64) {
	if err := f.acquire("write back", false); err != nil {
		return
	}
	defer f.mu.RUnlock()
	_ = unix.SyncFileRange(f.fd, off, length, unix.SYNC_FILE_RANGE_WRITE) // best effort
}

// Truncate implements File.
func (f *osFile) Truncate(sizeBytes int64) error {
	if err := f.acquire("truncate", true); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	err := ignoringEINTR(func() error { return unix.Ftruncate(f.fd, sizeBytes) })
	return wrap("truncate", f.name, err)
}

// Size implements File.
func (f *osFile) Size() (int64, error) {
	if err := f.acquire("stat", false); err != nil {
		return 0, err
	}
	defer f.mu.RUnlock()
	n, err := sizeOf(f.fd)
	return n, wrap("stat", f.name, err)
}

func sizeOf(fd int) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Size, nil
}

// Close implements File. It does not sync.
func (f *osFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return &opError{op: "close", name: f.name, cause: ErrClosed}
	}
	fd := f.fd
	f.fd = -1
	f.direct.close()
	// Linux releases the descriptor even when close is interrupted, so it is
	// never repeated.
	return wrap("close", f.name, unix.Close(fd))
}
