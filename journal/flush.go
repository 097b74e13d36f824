package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Flush returns when every record appended before the call is durable.
// Concurrent calls share one sync. If ctx ends first its error is returned and
// nothing is known. A failed sync poisons the store.
func (s *Store) Flush(ctx context.Context) error {
	s.mu.RLock()
	target := s.appended
	s.mu.RUnlock()
	for {
		s.flushMu.Lock()
		s.mu.RLock()
		err, done := s.usable(), s.flushed >= target
		s.mu.RUnlock()
		if err != nil || done {
			s.flushMu.Unlock()
			return err
		}
		if s.flushing == nil {
			s.flushing = make(chan struct{})
			s.flushMu.Unlock()
			err := s.syncJournal()
			s.flushMu.Lock()
			close(s.flushing)
			s.flushing = nil
			s.flushMu.Unlock()
			return err
		}
		under := s.flushing // began before our records, perhaps: look again after it
		s.flushMu.Unlock()
		select {
		case <-under:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fewRecords is how many records a flush covers at most where the one who writes
// waits for each of them to be durable. Appends then have the disk begin at
// once, so that the flush, which is about to come, has less to wait for.
const fewRecords = 1

// syncJournal makes everything appended so far durable. Older segments are
// synced before newer ones, so that what survives a crash in between is a
// prefix as far as the disk allows.
func (s *Store) syncJournal() error {
	s.mu.RLock()
	err, target, tip := s.usable(), s.appended, s.tipLocked()
	dirty := slices.Clone(s.unsynced)
	forks := s.forks
	for _, g := range dirty {
		g.users.Add(1)
	}
	s.mu.RUnlock()
	defer func() {
		for _, g := range dirty {
			s.releaseSegment(g)
		}
	}()
	if err != nil {
		return err
	}
	for _, g := range dirty {
		if err := s.syncSegment(g); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if target > s.flushed {
		s.flushedOften.Store(target-s.flushed <= fewRecords)
		s.flushed = target
		s.syncs.Add(1)
	}
	if forks == s.forks && tip.Seq > s.durable.Seq {
		s.durable = tip
		s.durableSeq.Store(uint64(tip.Seq))
		s.announceLocked()
	}
	// All but the newest were complete when the sync began.
	if n := len(dirty); n > 1 {
		s.unsynced = slices.DeleteFunc(s.unsynced, func(g *segment) bool { return slices.Contains(dirty[:n-1], g) })
	}
	return nil
}

func (s *Store) syncSegment(g *segment) error {
	return s.syncFile(&g.syncMu, tailFile{g.file}, g.name)
}

// tailFile is a file with records, of which a sync that fails may take some away. One
// that was refused was not tried, and takes nothing.
type tailFile struct{ vfs.File }

func (f tailFile) Sync() error {
	err := f.File.Sync()
	if err != nil && !errors.Is(err, vfs.ErrRefused) {
		return fmt.Errorf("%w: %w", ErrTailLost, err)
	}
	return err
}

// SyncTail is for a store that was poisoned by something else than a sync of the journal: it
// syncs what was appended, which nobody does any more, once, so that Err is ErrTailLost if that
// is lost. A file system that has failed keeps in memory what it will not write, and loses it
// when it is mounted again, where nothing tells of it. Nothing is acknowledged for it. For any
// other store it does nothing. Close does the same.
func (s *Store) SyncTail() {
	s.mu.RLock()
	failed, dirty := s.failed, slices.Clone(s.unsynced)
	for _, g := range dirty {
		g.users.Add(1)
	}
	s.mu.RUnlock()
	defer func() {
		for _, g := range dirty {
			s.releaseSegment(g)
		}
	}()
	if failed == nil {
		return
	}
	for _, g := range dirty {
		if !s.syncTailOf(g) {
			return
		}
	}
}

// syncTailOf is SyncTail for a segment, and reports whether another one may be tried.
func (s *Store) syncTailOf(g *segment) bool {
	g.syncMu.Lock()
	defer g.syncMu.Unlock()
	if errors.Is(s.Err(), ErrTailLost) {
		return false // by a sync: there is none after that
	}
	err := tailFile{g.file}.Sync()
	if errors.Is(err, ErrTailLost) && !errors.Is(err, vfs.ErrClosed) { // Close has overtaken it
		_ = s.poison(fmt.Errorf("sync %s: %w", g.name, err)) // it is told by Err
	}
	return err == nil
}

// syncBase makes the base and its checksums durable, in no order: what a crash
// leaves of either alone is not read before it was written again.
func (s *Store) syncBase() error {
	if err := s.syncFile(&s.baseSyncMu, s.base, baseFile); err != nil {
		return err
	}
	return s.syncFile(&s.sumsSyncMu, s.sums.file, baseSumsFile)
}

// syncFile makes a file durable or poisons the store. The kernel tells a
// failure to one of two concurrent syncs of a file only, and the other one
// would acknowledge what is lost: so there is one sync of a file at a time,
// and none after a failure. ErrClosed where Close has overtaken it.
func (s *Store) syncFile(one *sync.Mutex, file vfs.File, name string) error {
	one.Lock()
	defer one.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	err := file.Sync()
	switch {
	case errors.Is(err, vfs.ErrClosed):
		return ErrClosed // Close came first, which leaves nothing to be synced
	case err != nil:
		return s.poison(fmt.Errorf("sync %s: %w", name, err))
	}
	return nil
}

// WaitDurable returns when the durable position is another than the given
// one, when the active timeline changed, or with an error when ctx ends or
// the store fails.
func (s *Store) WaitDurable(ctx context.Context, known Position) (Position, error) {
	for {
		s.mu.RLock()
		durable, err, changed := s.durable, s.usable(), s.changed
		s.mu.RUnlock()
		if err != nil || durable != known {
			return durable, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return durable, ctx.Err()
		}
	}
}
