package journal

import (
	"errors"
	"fmt"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// padding fills the last page of an append. With it the kernel never has to
// read a page of a recycled segment from disk before it can change a part of
// it, and what a recycled file held before is cut off behind the tip.
var padding [blockBytes]byte

// Write appends a write of p at off and returns its position. On return it is
// visible to ReadAt and survives a kill of the process; Flush makes it
// durable. Payloads over MaxPayloadBytes become several records in a row. p is
// not kept. ErrRange, ErrFull, ErrPoisoned, ErrClosed.
func (s *Store) Write(p []byte, off int64) (Position, error) {
	if err := s.checkRange(off, int64(len(p))); err != nil {
		return Position{}, err
	}
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	for {
		n := min(len(p), MaxPayloadBytes)
		r := Record{Kind: KindWrite, Offset: off, Length: int64(n), Payload: p[:n]}
		r.PayloadCRC, r.parts = sumPayload(p[:n])
		pos, err := s.appendLocal(&r)
		if err != nil || n == len(p) {
			return pos, err
		}
		p, off = p[n:], off+int64(n)
	}
}

// Discard appends a discard: the extent reads as zeroes and its space can be
// freed. More than 4 GiB become several records in a row. Durability and
// errors as Write.
func (s *Store) Discard(off, length int64) (Position, error) {
	return s.appendExtent(KindDiscard, off, length)
}

// Zero appends a write of zeroes. Durability and errors as Write.
func (s *Store) Zero(off, length int64) (Position, error) {
	return s.appendExtent(KindZero, off, length)
}

func (s *Store) appendExtent(kind Kind, off, length int64) (Position, error) {
	if err := s.checkRange(off, length); err != nil {
		return Position{}, err
	}
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	for {
		n := min(length, maxExtentBytes)
		pos, err := s.appendLocal(&Record{Kind: kind, Offset: off, Length: n})
		if err != nil || n == length {
			return pos, err
		}
		off, length = off+n, length-n
	}
}

// Checkpoint appends a checkpoint record; c.Position is ignored. Durability
// and errors as Write; ErrRange if number or time cannot be stored.
func (s *Store) Checkpoint(c Checkpoint) (Position, error) {
	if err := c.validate(); err != nil {
		return Position{}, err
	}
	payload := c.appendEncoded(nil)
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	return s.appendLocal(&Record{
		Kind: KindCheckpoint, Offset: int64(c.Number), Length: c.Time.UnixNano(),
		Payload: payload, PayloadCRC: PayloadChecksum(payload),
	})
}

// Resize appends a change of the volume's size, which can only grow. On
// return it is durable.
func (s *Store) Resize(sizeBytes int64) (Position, error) {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if sizeBytes%SectorBytes != 0 || sizeBytes > maxVolumeBytes || sizeBytes < s.SizeBytes() || s.isOverlay() && sizeBytes > s.SizeBytes() {
		return Position{}, fmt.Errorf("resize from %d to %d bytes: %w", s.SizeBytes(), sizeBytes, ErrRange)
	}
	pos, err := s.appendLocal(&Record{Kind: KindResize, Length: sizeBytes})
	if err != nil {
		return Position{}, err
	}
	return pos, s.syncJournal()
}

func (s *Store) checkRange(off, length int64) error {
	if off < 0 || length <= 0 || off%SectorBytes != 0 || length%SectorBytes != 0 || off > s.SizeBytes()-length {
		return fmt.Errorf("%d bytes at %d of a volume of %d: %w", length, off, s.SizeBytes(), ErrRange)
	}
	return nil
}

// appendLocal gives a record that this site made the next position and
// appends it. appendMu must be held.
func (s *Store) appendLocal(r *Record) (Position, error) {
	tip, err := s.readyToAppend()
	if err != nil {
		return Position{}, err
	}
	r.Position = Position{tip.Timeline, tip.Seq + 1}
	return r.Position, s.appendRecord(r)
}

// readyToAppend returns the tip that a record of this site's making is to
// follow, on a timeline of this site's. appendMu must be held.
func (s *Store) readyToAppend() (tip Position, err error) {
	s.dropLeap() // it begins at the tip that is about to move
	if err := s.beginAppend(); err != nil {
		return Position{}, err
	}
	if s.forkFirst {
		if _, err := s.forkLocked(s.Tip(), "recovered"); err != nil {
			return Position{}, err
		}
	}
	if err := s.growTip(); err != nil {
		return Position{}, err
	}
	return s.Tip(), nil
}

// beginAppend checks that the store is usable and, before the first change
// since Open, takes back the catalog's word that the store is clean.
func (s *Store) beginAppend() error {
	s.mu.RLock()
	err, clean := s.usable(), s.state.CleanTip != nil
	s.mu.RUnlock()
	if err != nil || !clean {
		return err
	}
	if err := s.changeState(func(next *catalogState) { next.CleanTip = nil }, nil, nil); err != nil {
		return fmt.Errorf("mark store in use: %w", err)
	}
	return nil
}

// appendRecord writes a record whose position is set behind the tip and makes
// it visible. appendMu must be held.
func (s *Store) appendRecord(r *Record) error {
	if err := s.room(r); err != nil {
		return err
	}
	if r.Kind == KindResize {
		if err := s.grow(r.Length); err != nil {
			return err
		}
	}
	var point Checkpoint
	if r.Kind == KindCheckpoint {
		var err error
		if point, err = checkpointOf(r); err != nil {
			return err
		}
	}
	s.records = append(s.records[:0], *r)
	defer clear(s.records) // the payload is the caller's
	if n, err := s.writeFrames(s.records); n == 0 {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.showLocked(s.records)
	if r.Kind == KindCheckpoint {
		s.active.noteCheckpoint(point, len(r.Payload))
	}
	return nil
}

// writeFrames writes the frames of records that fit the active segment and
// follow one another behind the tip, as one system call where it can, and returns
// how many of them are whole; at least one without an error. appendMu must be held.
//
// ErrFull where the file system has no room although it was allocated, as one
// that never writes in place: nothing of the first frame that is not whole counts, because the
// next append begins where it does. After any other error the store is poisoned.
func (s *Store) writeFrames(records []Record) (whole int, err error) {
	g := s.active
	durable := Seq(s.durableSeq.Load())
	headers, bufs, end := s.headers[:0], s.iovecs[:0], g.end
	for i := range records {
		r := &records[i]
		n := len(headers)
		headers = headers[:n+frameHeaderBytes]
		putFrameHeader(headers[n:], r, durable, s.volume)
		bufs = append(bufs, headers[n:], r.Payload)
		if gap := frameBytes(len(r.Payload)) - frameHeaderBytes - int64(len(r.Payload)); gap > 0 {
			bufs = append(bufs, padding[:gap])
		}
		end += frameBytes(len(r.Payload))
	}
	bufs = append(bufs, padding[:min(-end&(blockBytes-1), g.bytes-end)])
	n, err := s.writeAppend(g.file, bufs, g.end, end)
	clear(bufs) // payloads are the callers'
	s.iovecs = bufs[:0]
	if errors.Is(err, vfs.ErrNoSpace) {
		s.noteCopies()
		return wholeFrames(records, int64(n)), fmt.Errorf("append to %s: %w", g.name, mapFull(err))
	}
	if err != nil {
		return 0, s.poison(fmt.Errorf("append to %s: %w", g.name, err))
	}
	if s.flushedOften.Load() {
		g.file.StartWriteback(g.end, end-g.end)
	}
	return len(records), nil
}

// wholeFrames is how many of the records have their frames in the first bytes.
func wholeFrames(records []Record, bytes int64) int {
	for i := range records {
		if bytes -= frameBytes(len(records[i].Payload)); bytes < 0 {
			return i
		}
	}
	return len(records)
}

// showLocked makes written records visible. appendMu and mu must be held.
func (s *Store) showLocked(records []Record) {
	g := s.active
	for i := range records {
		r := &records[i]
		g.note(r, g.end)
		s.tipBytes = g.noteSize(r, s.tipBytes)
		switch r.Kind {
		case KindWrite, KindDiscard, KindZero:
			c := g.changes[len(g.changes)-1]
			s.index.insert(c.start, c.end, c.loc)
			if r.parts != nil {
				s.keepParts(g, c.loc.fileOffset(), r)
			}
		}
		s.tree.last[r.Position.Timeline] = r.Position.Seq
	}
	s.appended += uint64(len(records))
	if s.appended-s.flushed > fewRecords {
		s.flushedOften.Store(false) // nobody waited for the one before
	}
	s.requests.Add(uint64(len(records)))
	g.closedAt = s.cfg.Clock.Now()
}

// grow makes the base and the catalog know a larger size before the record
// that says so, so that no record lies beyond them.
func (s *Store) grow(sizeBytes int64) error {
	if sizeBytes <= s.SizeBytes() {
		return nil // a replayed or repeated resize
	}
	if err := s.base.Truncate(sizeBytes); err != nil {
		return fmt.Errorf("resize base to %d bytes: %w", sizeBytes, mapFull(err))
	}
	if err := s.sums.file.Truncate(sumOffset(sizeBytes)); err != nil {
		return fmt.Errorf("resize checksums of base to %d bytes: %w", sizeBytes, mapFull(err))
	}
	if err := s.syncBase(); err != nil {
		return fmt.Errorf("resize base to %d bytes: %w", sizeBytes, err)
	}
	err := s.changeState(func(next *catalogState) { next.grow(sizeBytes) }, nil, func() {
		s.size.Store(sizeBytes)
		s.summed.Store(s.state.Summed)
	})
	if err != nil {
		return fmt.Errorf("resize to %d bytes: %w", sizeBytes, err)
	}
	return nil
}
