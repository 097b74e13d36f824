package vfs

import "slices"

// faultFile counts the operations on a file. Calls that change nothing fail
// only after the crash.
type faultFile struct {
	fault *Fault
	inner File
	name  string
}

func (f *faultFile) alive(op string) error { return wrap(op, f.name, f.fault.alive()) }

// ReadAt implements File.
func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.alive("read"); err != nil {
		return 0, err
	}
	return f.inner.ReadAt(p, off)
}

// ReadVecAt implements File.
func (f *faultFile) ReadVecAt(bufs [][]byte, off int64) (int, error) {
	if err := f.alive("read"); err != nil {
		return 0, err
	}
	return f.inner.ReadVecAt(bufs, off)
}

// TryReadAt implements File.
func (f *faultFile) TryReadAt(p []byte, off int64) (bool, error) {
	if err := f.alive("read"); err != nil {
		return false, err
	}
	return f.inner.TryReadAt(p, off)
}

// WriteAt implements File.
func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	v := f.fault.begin(OpWrite, "%s [%d, %d)", f.name, off, off+int64(len(p)))
	if v.err == nil {
		return f.inner.WriteAt(p, off)
	}
	return f.tear(OpWrite, v, p, off)
}

// WriteVecAt implements File.
func (f *faultFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	return f.writeVec(bufs, off, f.inner.WriteVecAt)
}

// StreamVecAt implements File. It counts as a WriteVecAt.
func (f *faultFile) StreamVecAt(bufs [][]byte, off int64) (int, error) {
	return f.writeVec(bufs, off, f.inner.StreamVecAt)
}

func (f *faultFile) writeVec(bufs [][]byte, off int64, write func([][]byte, int64) (int, error)) (int, error) {
	length := 0
	for _, b := range bufs {
		length += len(b)
	}
	v := f.fault.begin(OpWriteVec, "%s [%d, %d)", f.name, off, off+int64(length))
	if v.err == nil {
		return write(bufs, off)
	}
	return f.tear(OpWriteVec, v, slices.Concat(bufs...), off)
}

// WriteDirectAt implements File. It counts as a write.
func (f *faultFile) WriteDirectAt(p []byte, off int64) (int, error) {
	v := f.fault.begin(OpWrite, "%s [%d, %d) directly", f.name, off, off+int64(len(p)))
	if v.err == nil {
		return f.inner.WriteDirectAt(p, off)
	}
	return f.tear(OpWrite, v, p, off)
}

// tear writes the part of a failing write that is done all the same. The
// caller learns of none of it.
func (f *faultFile) tear(op Op, v verdict, p []byte, off int64) (int, error) {
	if part := p[:int(v.part*float64(len(p)+1))]; len(part) > 0 {
		_, _ = f.inner.WriteAt(part, off) // the crash keeps the result from the caller
	}
	return 0, wrap(op.String(), f.name, v.err)
}

// Sync implements File.
func (f *faultFile) Sync() error {
	v := f.fault.begin(OpSync, "%s", f.name)
	if v.err != nil && v.err != ErrCrashed {
		if mem, ok := f.inner.(*memHandle); ok {
			mem.failSync()
		}
	}
	return v.run(OpSync, f.name, f.inner.Sync)
}

// StartWriteback implements File. It is not counted: it makes nothing durable.
func (f *faultFile) StartWriteback(off, length int64) {
	if f.fault.alive() == nil {
		f.inner.StartWriteback(off, length)
	}
}

// StartRead implements File.
func (f *faultFile) StartRead(off, length int64) {
	if f.fault.alive() == nil {
		f.inner.StartRead(off, length)
	}
}

// Truncate implements File.
func (f *faultFile) Truncate(sizeBytes int64) error {
	v := f.fault.begin(OpTruncate, "%s to %d", f.name, sizeBytes)
	return v.run(OpTruncate, f.name, func() error { return f.inner.Truncate(sizeBytes) })
}

// Allocate implements File.
func (f *faultFile) Allocate(off, length int64) error {
	v := f.fault.begin(OpAllocate, "%s [%d, %d)", f.name, off, off+length)
	return v.run(OpAllocate, f.name, func() error { return f.inner.Allocate(off, length) })
}

// PunchHole implements File.
func (f *faultFile) PunchHole(off, length int64) error {
	v := f.fault.begin(OpPunchHole, "%s [%d, %d)", f.name, off, off+length)
	return v.run(OpPunchHole, f.name, func() error { return f.inner.PunchHole(off, length) })
}

// DropCache implements File.
func (f *faultFile) DropCache() {
	if f.fault.alive() == nil {
		f.inner.DropCache()
	}
}

// NextData implements File.
func (f *faultFile) NextData(off int64) (start, length int64, err error) {
	if err := f.alive("seek in"); err != nil {
		return 0, 0, err
	}
	return f.inner.NextData(off)
}

// Size implements File.
func (f *faultFile) Size() (int64, error) {
	if err := f.alive("stat"); err != nil {
		return 0, err
	}
	return f.inner.Size()
}

// Close implements File.
func (f *faultFile) Close() error {
	if err := f.alive("close"); err != nil {
		return err
	}
	return f.inner.Close()
}
