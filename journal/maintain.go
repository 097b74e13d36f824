package journal

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maintainEvery is how often Run looks for records that have left the window
// although nothing else woke it.
const maintainEvery = 5 * time.Second

// Run keeps the journal in shape until ctx ends: seals complete segments,
// has the next one ready, destages what left the window. A lack of space is
// logged and tried again; the first other error ends Run.
func (s *Store) Run(ctx context.Context) error {
	timer := s.cfg.Clock.NewTimer(0)
	defer func() { timer.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C():
			timer = s.cfg.Clock.NewTimer(maintainEvery)
		case <-s.wake:
		}
		err := s.Maintain(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil && errors.Is(err, ctx.Err()), errors.Is(err, ErrClosed):
			return nil
		case errors.Is(err, ErrFull):
			s.cfg.Log.Warn("journal maintenance needs space on the backing volume", "volume", s.volume, "error", err)
		default:
			return fmt.Errorf("maintain volume %s: %w", s.volume, err)
		}
	}
}

// Maintain does what is due now and returns. Errors: ErrFull when the backing
// volume has no room (call again later), ErrCorrupt when a record that had to
// be destaged is damaged, ErrPoisoned, ErrClosed.
func (s *Store) Maintain(ctx context.Context) error {
	s.maintainMu.Lock()
	defer s.maintainMu.Unlock()
	s.mu.RLock()
	err := s.usable()
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := s.sealPending(); err != nil {
		return err
	}
	for {
		more, err := s.destageBatch(ctx)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	s.mu.RLock()
	written := s.appended > 0
	s.mu.RUnlock()
	if written {
		return s.prepareSpare()
	}
	return nil
}

// Stats are figures of a store at one moment.
type Stats struct {
	Segments     int
	JournalBytes int64 // room taken by segments that hold records
	IndexExtents int64 // of the live view
	IndexBytes   int64 // estimate of their memory
	Timelines    int
	Appended     uint64 // records since Open
	Unflushed    uint64 // of them, not yet durable
}

// indexBytesPerExtent is measured by TestIndexMemory.
const indexBytesPerExtent = 24

// Stats returns the store's figures.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{
		Segments: len(s.segments), Timelines: len(s.tree.timelines),
		IndexExtents: int64(s.index.len()), IndexBytes: int64(s.index.len()) * indexBytesPerExtent,
		Appended: s.appended, Unflushed: s.appended - s.flushed,
	}
	for _, g := range s.segments {
		st.JournalBytes += g.bytes
	}
	return st
}
