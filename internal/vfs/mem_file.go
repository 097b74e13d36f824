package vfs

import (
	"errors"
	"io"
	"slices"
	"syscall"
)

// memHandle is an open file of a Mem.
type memHandle struct {
	m        *Mem
	f        *memFile
	name     string
	readOnly bool
	closed   bool // guarded by m.mu
}

// enter takes the lock; the caller releases it when err is nil.
func (h *memHandle) enter(op string, writes bool) error {
	if err := h.m.enter(op, h.name); err != nil {
		return err
	}
	var cause error
	switch {
	case h.closed:
		cause = ErrClosed
	case writes && h.readOnly:
		cause = ErrReadOnly
	default:
		return nil
	}
	h.m.mu.Unlock()
	return &opError{op: op, name: h.name, cause: cause}
}

// enterRange is enter for a call that names a part of the file.
func (h *memHandle) enterRange(op string, writes bool, off, length int64) error {
	if off < 0 || length < 0 {
		return wrap(op, h.name, syscall.EINVAL)
	}
	return h.enter(op, writes)
}

// ReadAt implements File.
func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.enterRange("read", false, off, 0); err != nil {
		return 0, err
	}
	defer h.m.mu.Unlock()
	h.f.cold = false
	n := h.f.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// ReadVecAt implements File.
func (h *memHandle) ReadVecAt(bufs [][]byte, off int64) (int, error) {
	p := make([]byte, lengthOf(bufs))
	n, err := h.ReadAt(p, off)
	for _, b := range bufs {
		p = p[copy(b, p):]
	}
	return n, err
}

func lengthOf(bufs [][]byte) (n int) {
	for _, b := range bufs {
		n += len(b)
	}
	return n
}

// TryReadAt implements File. It is done unless the range passes the end of
// the file, or DropCache was the last to touch its cache.
func (h *memHandle) TryReadAt(p []byte, off int64) (bool, error) {
	if err := h.enterRange("read", false, off, 0); err != nil {
		return false, err
	}
	defer h.m.mu.Unlock()
	if h.f.cold {
		return false, nil
	}
	return h.f.read(p, off) == len(p), nil
}

// WriteAt implements File.
func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	if err := h.enterRange("write", true, off, 0); err != nil {
		return 0, err
	}
	defer h.m.mu.Unlock()
	n, err := h.m.write(h.f, p, off)
	return n, wrap("write", h.name, err)
}

// WriteVecAt implements File. To a crash its sectors are as independent as
// those of WriteAt.
func (h *memHandle) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	return h.WriteAt(slices.Concat(bufs...), off)
}

// StreamVecAt implements File.
func (h *memHandle) StreamVecAt(bufs [][]byte, off int64) (int, error) {
	return h.WriteVecAt(bufs, off)
}

// WriteDirectAt implements File. To a crash it is a WriteAt: what a disk was given
// it may still lose. What is not aligned is an error that no caller expects.
func (h *memHandle) WriteDirectAt(p []byte, off int64) (int, error) {
	if !isAligned(p, off) {
		return 0, wrap("write directly", h.name, syscall.EINVAL)
	}
	if size, err := h.Size(); err != nil || off+int64(len(p)) > size {
		return 0, errors.Join(err, wrap("write directly beyond the end of", h.name, syscall.EINVAL))
	}
	return h.WriteAt(p, off)
}

// Sync implements File. It does not make the file's name durable.
func (h *memHandle) Sync() error {
	if err := h.enter("sync", false); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	h.f.sync()
	return nil
}

// failSync leaves the file as a Sync that failed.
func (h *memHandle) failSync() {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if !h.m.crashed {
		h.f.failSync()
	}
}

// StartWriteback implements File. It does nothing: every sector may reach the
// disk at any time as it is.
func (h *memHandle) StartWriteback(off, length int64) {}

// StartRead implements File. It does nothing: nobody waits for this disk.
func (h *memHandle) StartRead(off, length int64) {}

// Truncate implements File.
func (h *memHandle) Truncate(sizeBytes int64) error {
	if err := h.enterRange("truncate", true, sizeBytes, 0); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	h.m.truncate(h.f, sizeBytes)
	return nil
}

// Allocate implements File. Without enough space nothing is reserved.
func (h *memHandle) Allocate(off, length int64) error {
	if err := h.enterRange("allocate", true, off, length); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	return wrap("allocate", h.name, h.m.allocate(h.f, off, length))
}

// PunchHole implements File. A crash may leave any part of the range.
func (h *memHandle) PunchHole(off, length int64) error {
	if err := h.enterRange("punch hole in", true, off, length); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	h.m.do(h.f, change{size: -1, sectors: h.f.cleared(off, off+length)})
	return nil
}

// DropCache implements File. What a failed Sync gave up on, and was not written
// again since, reads as what the disk has of it from here on.
func (h *memHandle) DropCache() {
	if h.enter("drop cache of", false) == nil {
		h.f.cold = true
		h.m.evict(h.f)
		h.m.mu.Unlock()
	}
}

// NextData implements File. Space that is only allocated counts as a hole.
func (h *memHandle) NextData(off int64) (start, length int64, err error) {
	if err := h.enterRange("seek in", false, off, 0); err != nil {
		return 0, 0, err
	}
	defer h.m.mu.Unlock()
	start, length = h.f.nextData(off)
	return start, length, nil
}

// Size implements File.
func (h *memHandle) Size() (int64, error) {
	if err := h.enter("stat", false); err != nil {
		return 0, err
	}
	defer h.m.mu.Unlock()
	return h.f.size, nil
}

// Close implements File. It does not sync.
func (h *memHandle) Close() error {
	if err := h.enter("close", false); err != nil {
		return err
	}
	defer h.m.mu.Unlock()
	h.closed = true
	h.f.handles--
	h.m.releaseIfUnused(h.f)
	return nil
}
