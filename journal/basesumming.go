package journal

import (
	"context"
	"fmt"
)

// sumStepBytes is how much of the base is given checksums between two syncs.
const sumStepBytes = 64 << 20

// sumBase gives checksums to the part of the base that has none, which an older
// program made. They are those of the bytes that are there now, so damage of before
// stays unknown. It goes on from where it was, and is over at once when there
// is nothing to do. scrub.mu must be held.
func (s *Store) sumBase(ctx context.Context) error {
	pace := s.newPacer()
	for s.summed.Load() < s.SizeBytes() {
		if err := s.check(); err != nil {
			return err
		}
		upTo, err := s.writeSums(ctx, s.summed.Load(), s.SizeBytes(), pace)
		if err != nil {
			return fmt.Errorf("make checksums of the base: %w", err)
		}
		if err := s.syncFile(&s.sumsSyncMu, s.sums.file, baseSumsFile); err != nil {
			return err
		}
		// From here on they are relied on.
		err = s.changeState(func(next *catalogState) { next.Summed = upTo }, nil, func() { s.summed.Store(upTo) })
		if err != nil {
			return fmt.Errorf("make checksums of the base: %w", err)
		}
		if upTo == s.SizeBytes() {
			s.cfg.Log.Info("the base has checksums now", "volume", s.volume, "bytes", upTo)
		}
	}
	return nil
}

// writeSums writes the entries from an offset on, of at most sumStepBytes beside
// holes, and returns how far it came; not durable.
func (s *Store) writeSums(ctx context.Context, off, end int64, pace *pacer) (upTo int64, err error) {
	var c sumScratch
	p := make([]byte, maxSummedBytes)
	for done := 0; off < end && done < sumStepBytes; {
		start, err := s.nextInBase(off, end)
		if err != nil {
			return 0, err
		}
		n := int(min(end-start, maxSummedBytes))
		if err := s.writeSumsOf(&c, p[:n], start); err != nil {
			return 0, err
		}
		off, done = start+int64(n), done+n
		if err := pace.did(ctx, int64(n)); err != nil {
			return 0, err
		}
	}
	return off, nil
}

// writeSumsOf writes the entries of a piece, while nobody writes to it. Blocks that
// cannot be read keep what they have: what they hold when they can be read again is
// for nobody to say.
func (s *Store) writeSumsOf(c *sumScratch, p []byte, off int64) error {
	s.baseMu.Lock()
	err := s.readBaseUnchecked(p, off)
	if err == nil {
		err = s.writeEntries(c, p, off)
		s.baseMu.Unlock()
		return err
	}
	s.baseMu.Unlock()
	if len(p) <= blockBytes {
		_ = s.noteDamage(&CorruptError{File: baseFile, Offset: off, What: "content", Wanted: "to be readable", Found: err.Error()})
		return nil
	}
	for n := 0; n < len(p); n += blockBytes {
		if err := s.writeSumsOf(c, p[n:min(n+blockBytes, len(p))], off+int64(n)); err != nil {
			return err
		}
	}
	return nil
}

// writeEntries writes the entries of what the base has. baseMu must be held.
func (s *Store) writeEntries(c *sumScratch, p []byte, off int64) error {
	if _, err := s.sums.file.WriteAt(s.sums.encode(c, p, off), sumOffset(off)); err != nil {
		return fmt.Errorf("write checksums at %d of %s: %w", sumOffset(off), baseSumsFile, mapFull(err))
	}
	return nil
}
