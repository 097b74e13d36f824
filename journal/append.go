package journal

import "fmt"

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
		r := Record{Kind: KindWrite, Offset: off, Length: int64(n), Payload: p[:n], PayloadCRC: PayloadChecksum(p[:n])}
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
	if sizeBytes%SectorBytes != 0 || sizeBytes > maxVolumeBytes || sizeBytes < s.SizeBytes() {
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
	if err := s.beginAppend(); err != nil {
		return Position{}, err
	}
	if s.forkFirst {
		if _, err := s.forkLocked(s.Tip(), "recovered"); err != nil {
			return Position{}, err
		}
	}
	tip := s.Tip()
	r.Position = Position{tip.Timeline, tip.Seq + 1}
	return r.Position, s.appendRecord(r)
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
	g := s.active
	off := g.end
	putFrameHeader(s.header[:], r, Seq(s.durableSeq.Load()), s.volume)
	end := off + frameBytes(len(r.Payload))
	pad := padding[:min(-(off+frameHeaderBytes+int64(len(r.Payload)))&(blockBytes-1), g.bytes-end)]
	if _, err := g.file.WriteVecAt([][]byte{s.header[:], r.Payload, pad}, off); err != nil {
		return s.poison(fmt.Errorf("append to %s: %w", g.name, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g.note(r, off)
	g.closedAt = s.cfg.Clock.Now()
	s.tree.last[r.Position.Timeline] = r.Position.Seq
	s.appended++
	switch r.Kind {
	case KindWrite, KindDiscard, KindZero:
		c := g.changes[len(g.changes)-1]
		s.index.insert(c.start, c.end, c.loc)
	case KindCheckpoint:
		g.noteCheckpoint(point, len(r.Payload))
	}
	return nil
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
	if err := s.syncBase(); err != nil {
		return fmt.Errorf("resize base to %d bytes: %w", sizeBytes, err)
	}
	err := s.changeState(func(next *catalogState) { next.SizeBytes = sizeBytes }, nil, func() { s.size.Store(sizeBytes) })
	if err != nil {
		return fmt.Errorf("resize to %d bytes: %w", sizeBytes, err)
	}
	return nil
}
