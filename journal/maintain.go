package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// maintainEvery is how often Run looks for records that have left the window
// although nothing else woke it.
const maintainEvery = 5 * time.Second

// Run keeps the journal in shape until ctx ends: seals complete segments,
// has the next one ready, destages what left the window, thins history, merges indexes, scrubs. A lack of space is
// logged and tried again, and so is damage, or a part of a segment that the disk does not give,
// which stops what needs those bytes and nothing else; the first other error ends Run.
//
// The supply of segments has a goroutine of its own: an append that needs the
// next one must not wait until a batch has been destaged, or a segment's records are on the
// disk. So have sealing, the making of
// index runs and the thinning of history, which nobody waits for, and the scrub.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	defer s.hurryAtEnd(ctx)()
	g.Go(func() error { return s.repeat(ctx, s.wakeSupply, s.inGoodTime(s.prepareAhead)) })
	g.Go(func() error { return s.repeat(ctx, s.wakeSeal, s.inGoodTime(s.sealDue)) })
	g.Go(func() error { return s.repeat(ctx, s.wake, s.destageDue) })
	g.Go(func() error { return s.repeat(ctx, s.wakeRuns, s.buildRuns) })
	g.Go(func() error { return s.repeat(ctx, s.wakeThin, s.thinDue) })
	g.Go(func() error { return s.repeat(ctx, nil, s.scrubDue) })
	return g.Wait()
}

// hurryAtEnd has a new file not be filled with zeroes any longer when ctx ends, until done: whoever closes
// the store waits for Run first.
func (s *Store) hurryAtEnd(ctx context.Context) (done func()) {
	hurried := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		s.hurried.Add(1)
		close(hurried)
	})
	return func() {
		if !stop() {
			<-hurried
			s.hurried.Add(-1)
		}
	}
}

// repeat calls do when woken and from time to time, until ctx ends or do fails
// with anything but damage or a lack of space.
func (s *Store) repeat(ctx context.Context, woken <-chan struct{}, do func(context.Context) error) error {
	timer := s.cfg.Clock.NewTimer(0)
	defer func() { timer.Stop() }()
	var full grumble
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C():
			timer = s.cfg.Clock.NewTimer(maintainEvery)
		case <-woken:
		}
		err := s.asDamage(do(ctx))
		switch {
		case err == nil:
			full = grumble{}
		case ctx.Err() != nil && errors.Is(err, ctx.Err()), errors.Is(err, ErrClosed):
			return nil
		case errors.Is(err, ErrPoisoned):
			return fmt.Errorf("maintain volume %s: %w", s.volume, err)
		case errors.Is(err, ErrCorrupt):
			_ = s.noteDamage(err)
		case !errors.Is(err, ErrFull):
			return fmt.Errorf("maintain volume %s: %w", s.volume, err)
		case s.isOverlay(): // its allowance has been used up: writes say so
		case full.isDue(err, s.cfg.Clock.Now()):
			s.cfg.Log.Warn("journal maintenance needs space on the backing volume", "volume", s.volume, "error", err)
		}
	}
}

// inGoodTime is do for Run: where there is no room, destage is to make some
// before an append has to wait for it.
func (s *Store) inGoodTime(do func() error) func(context.Context) error {
	return func(context.Context) error {
		err := do()
		if errors.Is(err, ErrFull) && s.hopeless() == nil {
			s.wakeRun()
		}
		return err
	}
}

// supply seals complete segments and has the next ones ready. An error of the
// one does not keep it from the other.
func (s *Store) supply() error {
	err := s.prepareAhead() // first: an append may be about to need it
	if sealErr := s.sealDue(); sealErr != nil {
		return sealErr
	}
	return err
}

// prepareAhead has the next segments ready, and looks after the room for them.
func (s *Store) prepareAhead() error {
	if err := s.check(); err != nil {
		return err
	}
	s.watchRoom()
	s.watchShortage()
	err := s.prepareReady()
	for more := err == nil; more && err == nil; {
		more, err = s.readyMore()
	}
	s.trimReuse() // last: what is ready keeps an append from waiting for it
	return err
}

// sealDue seals complete segments. What the live index has put aside may wait for ones that
// others have sealed: an append, or who makes room.
func (s *Store) sealDue() error {
	s.mu.RLock()
	err, complete := s.usable(), len(s.toSeal) > 0
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if complete {
		if err := s.sealPending(); err != nil {
			return err
		}
		s.wakeRun() // more may be due now
	}
	return s.settleLive()
}

// settleLive lets go of what the live index has put aside, if that is sealed.
func (s *Store) settleLive() error {
	s.mu.RLock()
	waits := s.index.old != nil
	s.mu.RUnlock()
	if !waits {
		return nil
	}
	if err := s.refreshLive(); err != nil {
		return fmt.Errorf("settle the index: %w", err)
	}
	return nil
}

// Maintain does what is due now and returns. Errors: ErrFull when the backing
// volume has no room (call again later), ErrCorrupt when a record that had to
// be destaged is damaged, or cannot be read, ErrPoisoned, ErrClosed.
func (s *Store) Maintain(ctx context.Context) error {
	if err := s.destageDue(ctx); err != nil {
		return err
	}
	if err := s.thinDue(ctx); err != nil {
		return err
	}
	return s.buildRuns(ctx)
}

// destageDue is Maintain but for index runs.
func (s *Store) destageDue(ctx context.Context) error {
	s.maintainMu.Lock()
	defer s.maintainMu.Unlock()
	defer s.rushed.Store(false)
	refused, took := s.wasRefused.Swap(false), s.tookSegment.Swap(false)
	s.needed = refused || took
	s.endHolds()
	// A file that cannot be made for lack of space may be there once something
	// has been destaged.
	if err := s.hopeless(); err != nil {
		return err
	}
	supplyErr := s.supply()
	if supplyErr != nil && !errors.Is(supplyErr, ErrFull) {
		return supplyErr
	}
	for {
		more, err := s.destageTightly(ctx, false)
		if errors.Is(err, ErrFull) {
			s.inVain(err)
		}
		if err != nil {
			return err
		}
		if !more && !s.yieldPoint(refused) {
			break
		}
		s.watchRoom()
	}
	s.batchLimit = 0
	if supplyErr == nil {
		return nil
	}
	if err := s.supply(); !errors.Is(err, ErrFull) {
		return err
	}
	if _, err := s.makeRoom(ctx); err != nil {
		return err
	}
	return s.supply()
}

// Stats are figures of a store at one moment.
type Stats struct {
	Segments     int
	JournalBytes int64 // room taken by segments that hold records
	IndexExtents int64 // of the live view that are in memory
	IndexBytes   int64 // estimate of the memory that they and cached blocks of index runs take
	Timelines    int
	Appended     uint64 // records since Open
	Unflushed    uint64 // of them, not yet durable
	Damaged      int    // places known to be damaged, see Damaged
	Space        SpaceStats
	Repairs      RepairStats
	Thinning     ThinningStats
}

// ThinningStats are figures of a store's history.
type ThinningStats struct {
	Checkpoints int         // that can be opened, on all timelines
	Tiers       []TierBytes // what the journal's bytes are of, by rising interval
	// Since Open: rewrites, the bytes of segments that they replaced and of
	// those in their place, and rewrites that would have freed too little.
	Rewrites, Spared         uint64
	ReadBytes, WrittenBytes  int64
	UnderwayBytes, DoneBytes int64 // of the rewrite under way: to be read, and read so far
}

// ThinnedBytes is how much less room the history takes because it was thinned, since
// Open.
func (t *ThinningStats) ThinnedBytes() int64 { return max(0, t.ReadBytes-t.WrittenBytes) }

// TierBytes is what segments that were thinned to an interval take; Interval 0
// is those that have all their records.
type TierBytes struct {
	Interval time.Duration
	Bytes    int64
}

// PinsOnly reports whether the segments are kept for pins and views alone: what
// else was in them has left the window.
func (t TierBytes) PinsOnly() bool { return t.Interval == pinsOnly }

// indexBytesPerExtent is measured by TestIndexMemory.
const indexBytesPerExtent = 24

// Stats returns the store's figures.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{
		Segments: len(s.segments), Timelines: len(s.tree.timelines),
		IndexExtents: int64(s.index.len()), IndexBytes: int64(s.index.len())*indexBytesPerExtent + s.runs.cache.bytes(),
		JournalBytes: s.journalBytesLocked(), Appended: s.appended, Unflushed: s.appended - s.flushed,
		Damaged: s.damage.count(), Space: s.short.space(), Repairs: s.RepairStats(),
	}
	st.Thinning = s.thinningLocked()
	return st
}

func (s *Store) thinningLocked() ThinningStats {
	st := s.thinned
	bytes := map[time.Duration]int64{}
	for _, g := range s.segments {
		st.Checkpoints += len(g.checkpoints)
		bytes[g.thinned] += g.bytes
	}
	for _, interval := range slices.Sorted(maps.Keys(bytes)) {
		st.Tiers = append(st.Tiers, TierBytes{interval, bytes[interval]})
	}
	return st
}
