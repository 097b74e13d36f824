package journal

import (
	"fmt"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// baseWriter copies extents into the base in ascending order and joins
// neighbours into large writes.
type baseWriter struct {
	base vfs.File
	buf  []byte // content of [off, off+len(buf)), not yet written
	off  int64

	written   int64 // bytes written since writeback was last begun
	writeback int64 // where it is to begin next
}

// writebackBytes is how much is written to the base before the kernel is asked
// to bring it to disk.
const writebackBytes = 4 << 20

// add copies one extent from its segment, or frees its range.
func (w *baseWriter) add(e extent, from *segment) error {
	off, length := int64(e.start())*SectorBytes, int64(e.sectors())*SectorBytes
	if e.loc.isZeroes() {
		if err := w.base.PunchHole(off, length); err != nil {
			return fmt.Errorf("free %d bytes at %d of %s: %w", length, off, baseFile, mapFull(err))
		}
		return nil
	}
	source := e.loc.fileOffset()
	for length > 0 {
		if off != w.off+int64(len(w.buf)) || len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return err
			}
			w.off = off
		}
		n := int(min(length, int64(cap(w.buf)-len(w.buf))))
		part := w.buf[len(w.buf) : len(w.buf)+n]
		if err := readFull(from.file, part, source); err != nil {
			return fmt.Errorf("read %d bytes at %d of %s: %w", n, source, from.name, err)
		}
		w.buf = w.buf[:len(w.buf)+n]
		off, source, length = off+int64(n), source+int64(n), length-int64(n)
	}
	return nil
}

// flush writes what was gathered; not durable.
func (w *baseWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if _, err := w.base.WriteAt(w.buf, w.off); err != nil {
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(w.buf), w.off, baseFile, mapFull(err))
	}
	w.written += int64(len(w.buf))
	if w.written >= writebackBytes {
		// So that the sync at the end has little left to wait for, and the
		// flushes of records meanwhile little to wait behind.
		end := w.off + int64(len(w.buf))
		w.base.StartWriteback(w.writeback, end-w.writeback)
		w.written, w.writeback = 0, end
	}
	w.buf = w.buf[:0]
	return nil
}
