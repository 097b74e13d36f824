package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Device is a block device that an image is written to.
type Device struct {
	name string
	file *os.File
}

var (
	// ErrInUse: the device is mounted, or belongs to something else.
	ErrInUse = errors.New("device is mounted or in use")
	// ErrTooSmall: the device has less room than the image.
	ErrTooSmall = errors.New("device is too small")
)

// IsDevice reports whether a path names a block device.
func IsDevice(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
}

// OpenDevice takes a device for this process: nobody can mount it meanwhile.
// ErrInUse, ErrTooSmall; nothing was then written. Programs that have the device
// open without claiming it are not noticed.
func OpenDevice(name string, sizeBytes int64) (*Device, error) {
	// With O_EXCL, and without O_CREAT, a block device is claimed (open(2)).
	file, err := os.OpenFile(name, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open %s: %w", name, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	has, err := file.Seek(0, io.SeekEnd)
	if err == nil && has < sizeBytes {
		err = fmt.Errorf("%w: it has %d bytes, and the image %d", ErrTooSmall, has, sizeBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, errors.Join(err, file.Close()))
	}
	return &Device{name, file}, nil
}

// Write implements Sink.
func (d *Device) Write(p []byte, off int64) error {
	if _, err := d.file.WriteAt(p, off); err != nil {
		return fmt.Errorf("write to %s: %w", d.name, err)
	}
	return nil
}

// Zero implements Sink. What the device held there is gone; its blocks are freed
// where it can.
func (d *Device) Zero(off, length int64) error {
	if length < holeBytes {
		return d.Write(zeroes[:length], off)
	}
	head := -off & (holeBytes - 1)
	tail := (off + length) & (holeBytes - 1)
	if head > 0 {
		if err := d.Write(zeroes[:head], off); err != nil {
			return err
		}
	}
	if middle := length - head - tail; middle > 0 {
		if err := d.zeroBlocks(off+head, middle); err != nil {
			return err
		}
	}
	if tail > 0 {
		return d.Write(zeroes[:tail], off+length-tail)
	}
	return nil
}

func (d *Device) zeroBlocks(off, length int64) error {
	// A block device promises zeroes for both (blkdev_fallocate in the kernel).
	for _, mode := range []uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE} {
		for {
			err := unix.Fallocate(int(d.file.Fd()), mode, off, length)
			if err == nil {
				return nil
			}
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	blank := make([]byte, min(length, chunkBytes))
	for length > 0 {
		n := min(length, int64(len(blank)))
		if err := d.Write(blank[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// Commit makes the image durable.
func (d *Device) Commit() error {
	if err := d.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", d.name, errors.Join(err, d.file.Close()))
	}
	if err := d.file.Close(); err != nil {
		return fmt.Errorf("close %s: %w", d.name, err)
	}
	return nil
}

// Abort lets go of the device, which then holds a part of the image.
func (d *Device) Abort() error { return d.file.Close() }
