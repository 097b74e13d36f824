package journal

import (
	"fmt"
)

// baseWriter copies extents into the base in ascending order, with their
// checksums, and joins neighbours into large writes.
type baseWriter struct {
	s       *Store
	buf     []byte // content of [off, off+len(buf)), not yet written
	off     int64
	scratch readScratch

	written   int64 // bytes written since writeback was last begun
	writeback int64 // where it is to begin next
}

// writebackBytes is how much is written to the base before the kernel is asked
// to bring it to disk.
const writebackBytes = 4 << 20

// add copies one extent from its segment, or frees its range. What is copied was
// found to be whole.
func (w *baseWriter) add(e extent, from *segment) error {
	off, length := int64(e.start())*SectorBytes, int64(e.sectors())*SectorBytes
	if e.loc.isZeroes() {
		return w.s.freeBase(off, length)
	}
	if length > MaxPayloadBytes {
		return fmt.Errorf("copy %d bytes at %d of %s: no record is that long", length, e.loc.fileOffset(), from.name)
	}
	// A record's checksum is over all of it: so an extent is read in one piece.
	if off != w.off+int64(len(w.buf)) || int64(len(w.buf))+length > int64(cap(w.buf)) {
		if err := w.flush(); err != nil {
			return err
		}
		w.off = off
	}
	n := len(w.buf)
	x := piece{dst: w.buf[n : n+int(length)], g: from, off: e.loc.fileOffset(), at: off}
	if err := w.s.readJournal(&w.scratch, &x); err != nil {
		return err
	}
	w.buf = w.buf[:n+int(length)]
	return nil
}

// flush writes what was gathered; not durable.
func (w *baseWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if err := w.s.writeBase(&w.scratch.sums, w.buf, w.off); err != nil {
		return err
	}
	w.written += int64(len(w.buf))
	if w.written >= writebackBytes {
		// So that the sync at the end has little left to wait for, and the
		// flushes of records meanwhile little to wait behind.
		end := w.off + int64(len(w.buf))
		w.s.base.StartWriteback(w.writeback, end-w.writeback)
		w.written, w.writeback = 0, end
	}
	w.buf = w.buf[:0]
	return nil
}

// writeBase writes whole sectors to the base, and their checksums; not durable.
func (s *Store) writeBase(c *sumScratch, p []byte, off int64) error {
	entries := s.sums.encode(c, p, off)
	s.baseMu.Lock()
	defer s.baseMu.Unlock()
	if _, err := s.base.WriteAt(p, off); err != nil {
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(p), off, baseFile, mapFull(err))
	}
	if _, err := s.sums.file.WriteAt(entries, sumOffset(off)); err != nil {
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(entries), sumOffset(off), baseSumsFile, mapFull(err))
	}
	s.damage.healed(baseFile, off, int64(len(p)))
	return nil
}

// freeBase makes a range of the base zeroes that take no space, as it does with the
// checksums; not durable.
func (s *Store) freeBase(off, length int64) error {
	s.baseMu.Lock()
	defer s.baseMu.Unlock()
	if err := s.base.PunchHole(off, length); err != nil {
		return fmt.Errorf("free %d bytes at %d of %s: %w", length, off, baseFile, mapFull(err))
	}
	if err := s.sums.file.PunchHole(sumOffset(off), length/SectorBytes*sumBytes); err != nil {
		return fmt.Errorf("free checksums of %d bytes at %d of %s: %w", length, off, baseFile, mapFull(err))
	}
	s.damage.healed(baseFile, off, length)
	return nil
}
