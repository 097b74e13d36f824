package main

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lockstep-csi/lockstep/engine"
)

// fileDevice is the floor of the default transport for what a null engine cannot
// serve, because it has to be read again: it keeps everything in a plain file, in
// place, and a flush makes that file durable. It has no journal, no history and no
// checksums.
type fileDevice struct{ file *os.File }

func (fileDevice) SizeBytes() int64 { return deviceBytes }
func (fileDevice) ReadOnly() bool   { return false }

// ReadAt implements engine.Device.
func (d fileDevice) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := d.file.ReadAt(p, off)
	return err
}

// WriteBatch implements engine.BatchWriter.
func (d fileDevice) WriteBatch(_ context.Context, writes []engine.Write) error {
	for _, w := range writes {
		if _, err := d.file.WriteAt(w.Data, w.Offset); err != nil {
			return err
		}
	}
	return nil
}

// WriteAt implements engine.Device.
func (d fileDevice) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	if _, err := d.file.WriteAt(p, off); err != nil || !fua {
		return err
	}
	return d.Flush(ctx)
}

// Discard implements engine.Device.
func (d fileDevice) Discard(_ context.Context, off, length int64) error {
	return unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// WriteZeroes implements engine.Device.
func (d fileDevice) WriteZeroes(ctx context.Context, off, length int64, fua bool) error {
	err := unix.Fallocate(int(d.file.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if err != nil || !fua {
		return err
	}
	return d.Flush(ctx)
}

// Flush implements engine.Device.
func (d fileDevice) Flush(context.Context) error { return unix.Fdatasync(int(d.file.Fd())) }

// BlockStatus implements engine.Device.
func (fileDevice) BlockStatus(_ context.Context, off, length int64, _ int) ([]engine.BlockRange, error) {
	return []engine.BlockRange{{Offset: off, Length: length}}, nil
}

// fileEngine serves a fileDevice over a new file on a block device.
func (b *bench) fileEngine(name string) (string, error) {
	file, err := os.Create(b.env.Path(name + ".image"))
	if err != nil {
		return "", err
	}
	b.env.Undo(file.Close)
	if err := file.Truncate(deviceBytes); err != nil {
		return "", err
	}
	return b.serve(name, fileDevice{file})
}
