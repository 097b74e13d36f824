package holder_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// fileDevice is an engine.Device over a plain file and the page cache: its
// content survives a kill of the process, which is all that the tests of a
// hand-over need. Its size is the file's, so truncating the file grows it.
type fileDevice struct {
	file     *os.File
	readOnly bool
	discards atomic.Int64
	flushes  atomic.Int64
	missed   atomic.Int64 // reads that TryReadAt could not serve
}

func openFileDevice(path string, readOnly bool) (*fileDevice, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &fileDevice{file: f, readOnly: readOnly}, nil
}

func (d *fileDevice) Close() error { return d.file.Close() }

func (d *fileDevice) SizeBytes() int64 {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.file.Fd()), &st); err != nil {
		panic(fmt.Sprintf("stat open file: %v", err))
	}
	return st.Size
}

func (d *fileDevice) ReadOnly() bool { return d.readOnly }

func (d *fileDevice) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := d.file.ReadAt(p, off)
	return err
}

// TryReadAt reads what is in the page cache.
func (d *fileDevice) TryReadAt(p []byte, off int64) (bool, error) {
	n, err := unix.Preadv2(int(d.file.Fd()), [][]byte{p}, off, unix.RWF_NOWAIT)
	if err == nil && n == len(p) {
		return true, nil
	}
	if err == nil || errors.Is(err, unix.EAGAIN) {
		d.missed.Add(1)
		return false, nil
	}
	return true, err
}

func (d *fileDevice) WriteAt(_ context.Context, p []byte, off int64, fua bool) error {
	if d.readOnly {
		return engine.ErrReadOnly
	}
	if _, err := d.file.WriteAt(p, off); err != nil {
		return err
	}
	if fua {
		return unix.Fdatasync(int(d.file.Fd()))
	}
	return nil
}

func (d *fileDevice) Discard(_ context.Context, off, length int64) error {
	if d.readOnly {
		return engine.ErrReadOnly
	}
	d.discards.Add(1)
	return unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func (d *fileDevice) WriteZeroes(_ context.Context, off, length int64, _ bool) error {
	if d.readOnly {
		return engine.ErrReadOnly
	}
	return unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func (d *fileDevice) Flush(context.Context) error {
	d.flushes.Add(1)
	return unix.Fdatasync(int(d.file.Fd()))
}

func (d *fileDevice) BlockStatus(_ context.Context, off, length int64, _ int) ([]engine.BlockRange, error) {
	return []engine.BlockRange{{Offset: off, Length: length}}, nil
}
