package integration

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func (e *exerciser) write() error {
	off := e.rng.IntN(min(len(e.want)+1, exercisedBytes-1))
	p := e.noise(1 + e.rng.IntN(min(exercisedBytes-off, 64<<10)))
	_, err := e.file.WriteAt(p, int64(off))
	e.holds(p, off)
	return err
}

// extend leaves a hole between the end and what it writes.
func (e *exerciser) extend() error {
	off := len(e.want) + e.rng.IntN(128<<10)
	if off+8192 > exercisedBytes {
		return nil
	}
	p := e.noise(1 + e.rng.IntN(8192))
	_, err := e.file.WriteAt(p, int64(off))
	e.holds(p, off)
	return err
}

// writeDirect writes pages past the page cache, over what that may hold.
func (e *exerciser) writeDirect() error {
	off := e.rng.IntN(min(len(e.want), exercisedBytes-16*pageBytes)/pageBytes+1) * pageBytes
	p, err := unix.Mmap(-1, 0, (1+e.rng.IntN(16))*pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	copy(p, e.noise(len(p)))
	direct, err := os.OpenFile(e.file.Name(), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return errors.Join(err, unix.Munmap(p))
	}
	_, err = direct.WriteAt(p, int64(off))
	e.holds(p, off)
	return errors.Join(err, direct.Close(), unix.Munmap(p))
}

// writeMapped changes bytes of a mapping, and makes it durable or leaves that
// to the kernel.
func (e *exerciser) writeMapped() error {
	off, length := e.extent()
	if length == 0 {
		return nil
	}
	start := off / pageBytes * pageBytes
	m, err := unix.Mmap(int(e.file.Fd()), int64(start), off+length-start, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	p := e.noise(length)
	err = differ(m, e.want[start:off+length], start)
	copy(m[off-start:], p)
	e.holds(p, off)
	if e.rng.IntN(2) == 0 {
		err = errors.Join(err, unix.Msync(m, unix.MS_SYNC))
	}
	return errors.Join(err, unix.Munmap(m))
}

func (e *exerciser) read() error { return e.compare(e.extent()) }

func (e *exerciser) truncate() error {
	size := e.rng.IntN(exercisedBytes)
	if len(e.want) > 0 && e.rng.IntN(2) == 0 {
		size = e.rng.IntN(len(e.want))
	}
	e.sized(size)
	return e.file.Truncate(int64(size))
}

func (e *exerciser) punch() error {
	off, length := e.extent()
	if length == 0 {
		return nil
	}
	clear(e.want[off : off+length])
	return e.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// allocate reserves space, inside the file and behind its end, which moves or
// stays.
func (e *exerciser) allocate() error {
	off := e.rng.IntN(exercisedBytes / 2)
	length := 1 + e.rng.IntN(128<<10)
	if e.rng.IntN(2) == 0 {
		return e.fallocate(unix.FALLOC_FL_KEEP_SIZE, off, length)
	}
	e.sized(max(len(e.want), off+length))
	return e.fallocate(0, off, length)
}

func (e *exerciser) zero() error {
	off, length := e.extent()
	if length == 0 {
		return nil
	}
	clear(e.want[off : off+length])
	return e.fallocate(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// copyRange copies within the file, which may share the blocks.
func (e *exerciser) copyRange() error {
	from, length := e.extent()
	to := e.rng.IntN(exercisedBytes - 64<<10)
	if length == 0 || (from < to+length && to < from+length) {
		return nil
	}
	in, out := int64(from), int64(to)
	for done := 0; done < length; {
		n, err := unix.CopyFileRange(int(e.file.Fd()), &in, int(e.file.Fd()), &out, length-done, 0)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("nothing was copied from %d", in)
		}
		done += n
	}
	e.holds(append([]byte(nil), e.want[from:from+length]...), to)
	return nil
}

func (e *exerciser) sync() error {
	if e.rng.IntN(2) == 0 {
		return unix.Fdatasync(int(e.file.Fd()))
	}
	return e.file.Sync()
}

// evict forgets the cached pages, so that all is read from the device.
func (e *exerciser) evict() error {
	if err := errors.Join(e.file.Sync(), unix.Fadvise(int(e.file.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		return err
	}
	return e.compare(0, len(e.want))
}

func (e *exerciser) reopen() error { return errors.Join(e.pause(), e.resume()) }

// collapse takes pages out of the file's middle.
func (e *exerciser) collapse() error {
	off, length := e.pages()
	if length == 0 || off+length >= len(e.want) {
		return nil
	}
	e.want = append(e.want[:off:off], e.want[off+length:]...)
	return e.fallocate(unix.FALLOC_FL_COLLAPSE_RANGE, off, length)
}

// insert makes room for pages in the file's middle.
func (e *exerciser) insert() error {
	off, length := e.pages()
	if length == 0 || len(e.want)+length > exercisedBytes {
		return nil
	}
	e.want = append(append(e.want[:off:off], make([]byte, length)...), e.want[off:]...)
	return e.fallocate(unix.FALLOC_FL_INSERT_RANGE, off, length)
}
