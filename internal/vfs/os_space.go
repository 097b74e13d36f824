package vfs

import "golang.org/x/sys/unix"

// Allocate implements File with fallocate(2). Where the file system has no
// such call the file is only extended: its writes can then run out of space.
func (f *osFile) Allocate(off, length int64) error {
	if err := f.acquire("allocate", true); err != nil {
		return err
	}
	err := fallocate(f.fd, 0, off, length)
	f.mu.RUnlock()
	if isUnsupported(err) {
		err = f.extendTo(off + length)
	}
	return wrap("allocate", f.name, err)
}

// extendTo grows the file to at least sizeBytes. It holds mu for writing: a
// write that extended the file between the look at its size and the change
// would be cut off.
func (f *osFile) extendTo(sizeBytes int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return ErrClosed
	}
	size, err := sizeOf(f.fd)
	if err != nil || size >= sizeBytes {
		return err
	}
	return ignoringEINTR(func() error { return unix.Ftruncate(f.fd, sizeBytes) })
}

// PunchHole implements File with fallocate(2). Where the file system cannot
// punch, zeroes are written instead: the range reads as promised, but its
// space stays in use.
func (f *osFile) PunchHole(off, length int64) error {
	if err := f.acquire("punch hole in", true); err != nil {
		return err
	}
	err := fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	f.mu.RUnlock()
	if isUnsupported(err) {
		err = f.writeZeroes(off, length)
	}
	return wrap("punch hole in", f.name, err)
}

// writeZeroes overwrites the part of the range that lies inside the file. It
// holds mu for writing, so that no write to the range lands between its parts.
func (f *osFile) writeZeroes(off, length int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return ErrClosed
	}
	size, err := sizeOf(f.fd)
	if err != nil {
		return err
	}
	end := min(off+length, size)
	if off >= end {
		return nil
	}
	zeroes := make([]byte, min(zeroChunkBytes, end-off))
	for off < end {
		n, err := pwriteAll(f.fd, zeroes[:min(int64(len(zeroes)), end-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

func fallocate(fd int, mode uint32, off, length int64) error {
	if length == 0 {
		return nil // the system call refuses it
	}
	return ignoringEINTR(func() error { return unix.Fallocate(fd, mode, off, length) })
}

func isUnsupported(err error) bool {
	return err == unix.EOPNOTSUPP || err == unix.ENOSYS
}

// DropCache implements File with posix_fadvise(2). Dirty pages stay.
func (f *osFile) DropCache() {
	if err := f.acquire("drop cache of", false); err != nil {
		return
	}
	defer f.mu.RUnlock()
	_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED) // best effort
}

// NextData implements File with SEEK_DATA and SEEK_HOLE of lseek(2). Where
// the file system does not have them, all of the rest counts as data.
func (f *osFile) NextData(off int64) (start, length int64, err error) {
	if err := f.acquire("seek in", false); err != nil {
		return 0, 0, err
	}
	defer f.mu.RUnlock()
	if off < 0 { // which the system call takes for an offset beyond the end
		return 0, 0, wrap("seek in", f.name, unix.EINVAL)
	}
	start, err = unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return off, 0, nil
	case err == unix.EINVAL:
		return f.restAsData(off)
	case err != nil:
		return 0, 0, wrap("seek in", f.name, err)
	}
	end, err := unix.Seek(f.fd, start, unix.SEEK_HOLE)
	if err == unix.ENXIO {
		// The file was cut to before start between the two calls.
		return off, 0, nil
	}
	if err != nil {
		return 0, 0, wrap("seek in", f.name, err)
	}
	return start, end - start, nil
}

func (f *osFile) restAsData(off int64) (start, length int64, err error) {
	size, err := sizeOf(f.fd)
	if err != nil {
		return 0, 0, wrap("seek in", f.name, err)
	}
	return off, max(0, size-off), nil
}
