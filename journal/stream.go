package journal

import "github.com/lockstep-csi/lockstep/internal/vfs"

// streamBytes is how long an append is from which on it leaves the page cache as soon as
// the disk has it, where the journal is larger than what the cache can keep. What is
// written in pieces of that size is seldom read soon, and to find it pages that
// something else has to be thrown out for costs more than all else that is done
// with it (docs/performance.md).
const streamBytes = 256 << 10

// noteStreaming sets whether long appends leave the page cache. A journal that fits it stays there.
// mu must be held, or nobody else have the store yet.
func (s *Store) noteStreaming() {
	s.streaming.Store(s.cfg.CacheBytes > 0 && (s.cfg.JournalBytes == 0 || s.cfg.JournalBytes > s.cfg.CacheBytes))
}

// writeAppend writes buffers from off on, of which frames take what is before end.
// The page in which the next append begins stays in the cache in any case, so
// that it need not be read.
func (s *Store) writeAppend(f vfs.File, bufs [][]byte, off, end int64) (int, error) {
	if end-off < streamBytes || !s.streaming.Load() {
		return f.WriteVecAt(bufs, off)
	}
	page := end &^ (blockBytes - 1)
	head, tail := splitBuffers(bufs, page-off)
	n, err := f.StreamVecAt(head, off)
	if err != nil || len(tail) == 0 {
		return n, err
	}
	m, err := f.WriteVecAt(tail, page)
	return n + m, err
}

// splitBuffers returns the first n bytes of bufs, and what is behind them. It uses
// bufs for the former.
func splitBuffers(bufs [][]byte, n int64) (head, tail [][]byte) {
	for i, b := range bufs {
		if n < int64(len(b)) {
			tail = append([][]byte{b[n:]}, bufs[i+1:]...)
			bufs[i] = b[:n]
			return bufs[:i+1], tail
		}
		n -= int64(len(b))
	}
	return bufs, nil
}
