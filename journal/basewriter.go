package journal

import (
	"errors"
	"fmt"
	"math"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// baseWriter copies extents into the base in ascending order, with their
// checksums, and joins neighbours into large writes. Each is read once, into the
// memory that it is written from.
//
// Long runs of a volume that the kernel cannot keep in memory (Config.CacheBytes) are
// written past the page cache, several at a time: a page that the kernel has to find for
// each costs more than the copy, and is gone before it is read. Others
// go through it, which is where they meet their neighbours of other batches. Both
// never at a time, because a page with both would be dropped by the one and dirty from
// the other, which Linux cannot keep coherent.
//
// It owns a goroutine for each write that is under way; join waits for them.
type baseWriter struct {
	s       *Store
	scratch readScratch
	reader  stretch
	filling *baseRun   // what add gathers; nil: nothing
	spare   []*baseRun // not in use
	made    int
	landed  chan *baseRun // direct writes that came to their end
	flying  int           // those that did not yet

	written   int64 // bytes written through the cache since writeback was last begun
	writeback int64 // where it is to begin next
}

const (
	// writebackBytes is how much is written to the base before the kernel is asked
	// to bring it to disk.
	writebackBytes = 4 << 20
	// defaultDirectBytes is the shortest run that is worth a direct write.
	defaultDirectBytes = 64 << 10
	// defaultDirectDepth is how many direct writes are under way at once: one alone
	// waits for the disk's latency and not for what it can carry.
	defaultDirectDepth = 4
)

// directBytes is the shortest run that is written directly. None is that long where
// the base can stay in memory: what was written last is read soon, and from the disk it
// takes several times as long.
func (s *Store) directBytes() int64 {
	switch {
	case s.cfg.directBytes != 0:
		return s.cfg.directBytes
	case s.cfg.CacheBytes == 0 || s.SizeBytes() <= s.cfg.CacheBytes:
		return math.MaxInt64
	}
	return defaultDirectBytes
}

func (s *Store) newBaseWriter() *baseWriter {
	w := &baseWriter{s: s, landed: make(chan *baseRun, s.cfg.directDepth)}
	w.reader = stretch{s: s, scratch: &w.scratch}
	return w
}

// add takes one extent from its segment, or frees its range.
func (w *baseWriter) add(e extent, from *segment) error {
	off, length := int64(e.start())*SectorBytes, int64(e.sectors())*SectorBytes
	if e.loc.isZeroes() {
		if err := w.settle(); err != nil {
			return err
		}
		return w.s.freeBase(off, length)
	}
	if length > MaxPayloadBytes {
		return fmt.Errorf("copy %d bytes at %d of %s: no record is that long", length, e.loc.fileOffset(), from.name)
	}
	// A record's checksum is over all of it: so an extent is read in one piece.
	if r := w.filling; r == nil || off != r.end() || len(r.p)+int(length) > destageBufferBytes {
		if err := w.flush(); err != nil {
			return err
		}
		if err := w.begin(off); err != nil {
			return err
		}
	}
	dst, entries := w.filling.grow(int(length))
	return w.reader.add(piece{dst: dst, g: from, off: e.loc.fileOffset(), at: off}, entries)
}

// begin takes memory for a run, when there is some.
func (w *baseWriter) begin(off int64) error {
	switch {
	case len(w.spare) > 0:
	case w.made <= w.s.cfg.directDepth:
		w.made++
		w.spare = append(w.spare, newBaseRun())
	default:
		if err := w.land(); err != nil {
			return err
		}
	}
	last := len(w.spare) - 1
	w.filling, w.spare = w.spare[last], w.spare[:last]
	w.filling.reset(off)
	return nil
}

// flush reads what add has gathered and writes it, or has it written; not durable.
func (w *baseWriter) flush() error {
	if err := w.reader.read(); err != nil {
		return err
	}
	r := w.filling
	if r == nil {
		return nil
	}
	w.filling = nil
	if from, to := r.direct(w.s.directBytes()); from == 0 && to == len(r.p) {
		return w.launch(r)
	}
	if err := w.settle(); err != nil {
		return err
	}
	if err := w.s.writeBase(r); err != nil {
		return err
	}
	w.spare = append(w.spare, r)
	if w.written += int64(len(r.p)); w.written >= writebackBytes {
		// So that the sync at the end has little left to wait for, and the
		// flushes of records meanwhile little to wait behind.
		w.s.base.StartWriteback(w.writeback, r.end()-w.writeback)
		w.written, w.writeback = 0, r.end()
	}
	return nil
}

// launch writes a run directly, beside others.
func (w *baseWriter) launch(r *baseRun) error {
	if w.flying == w.s.cfg.directDepth {
		if err := w.land(); err != nil {
			return err
		}
	}
	w.flying++
	go func() {
		r.err = w.s.writeBase(r)
		w.landed <- r
	}()
	return nil
}

// land waits for one of the direct writes.
func (w *baseWriter) land() error {
	r := <-w.landed
	w.flying--
	w.spare = append(w.spare, r)
	return r.err
}

// settle waits for all direct writes.
func (w *baseWriter) settle() (err error) {
	for w.flying > 0 {
		err = errors.Join(err, w.land())
	}
	return err
}

// finish writes what is left; not durable.
func (w *baseWriter) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.settle()
}

// join waits for what is under way after an error, which was told already.
func (w *baseWriter) join() { _ = w.settle() }

// baseRun is a run of the base's sectors in memory.
type baseRun struct {
	room    []byte // p is a part of it, aligned in memory as it is in the base
	p       []byte
	off     int64
	entries []byte
	err     error // of its write
}

func newBaseRun() *baseRun {
	return &baseRun{
		room:    vfs.AlignedBytes(vfs.DirectAlignBytes + destageBufferBytes),
		entries: make([]byte, 0, sumOffset(destageBufferBytes)),
	}
}

func (r *baseRun) reset(off int64) {
	r.off, r.entries, r.err = off, r.entries[:0], nil
	r.p = r.room[off%vfs.DirectAlignBytes:][:0]
}

func (r *baseRun) end() int64 { return r.off + int64(len(r.p)) }

// grow makes room at the end, and returns it.
func (r *baseRun) grow(n int) (p, entries []byte) {
	at, entry := len(r.p), len(r.entries)
	r.p, r.entries = r.p[:at+n], r.entries[:entry+int(sumOffset(int64(n)))]
	return r.p[at:], r.entries[entry:]
}

// direct is the part that can be written directly, of at least atLeast bytes; empty
// if there is none.
func (r *baseRun) direct(atLeast int64) (from, to int) {
	from = int(-r.off & (vfs.DirectAlignBytes - 1))
	to = len(r.p) - int(r.end()%vfs.DirectAlignBytes)
	if int64(to-from) < atLeast {
		return 0, 0
	}
	return from, to
}

// writeBase writes whole sectors to the base, and their checksums; not durable.
func (s *Store) writeBase(r *baseRun) error {
	s.baseMu.RLock()
	defer s.baseMu.RUnlock()
	from, to := r.direct(s.directBytes())
	for _, part := range []struct {
		from, to int
		write    func([]byte, int64) (int, error)
	}{
		{0, from, s.base.WriteAt}, {from, to, s.writeDirect}, {to, len(r.p), s.base.WriteAt},
	} {
		if part.from == part.to {
			continue
		}
		p, off := r.p[part.from:part.to], r.off+int64(part.from)
		if _, err := part.write(p, off); err != nil {
			return fmt.Errorf("write %d bytes at %d of %s: %w", len(p), off, baseFile, mapFull(err))
		}
	}
	if _, err := s.sums.file.WriteAt(r.entries, sumOffset(r.off)); err != nil {
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(r.entries), sumOffset(r.off), baseSumsFile, mapFull(err))
	}
	s.damage.healed(baseFile, r.off, int64(len(r.p)))
	return nil
}

// writeDirect writes to the base past the page cache, where that can be.
func (s *Store) writeDirect(p []byte, off int64) (int, error) {
	n, err := s.base.WriteDirectAt(p, off)
	if errors.Is(err, vfs.ErrNoDirect) {
		n, err = s.base.WriteAt(p, off)
		s.base.StartWriteback(off, int64(len(p)))
	}
	return n, err
}

// freeBase makes a range of the base zeroes that take no space, as it does with the
// checksums; not durable.
func (s *Store) freeBase(off, length int64) error {
	s.baseMu.RLock()
	defer s.baseMu.RUnlock()
	if err := s.base.PunchHole(off, length); err != nil {
		return fmt.Errorf("free %d bytes at %d of %s: %w", length, off, baseFile, mapFull(err))
	}
	if err := s.sums.file.PunchHole(sumOffset(off), length/SectorBytes*sumBytes); err != nil {
		return fmt.Errorf("free checksums of %d bytes at %d of %s: %w", length, off, baseFile, mapFull(err))
	}
	s.damage.healed(baseFile, off, length)
	return nil
}
