package site

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	// tendForksEvery is the time between two looks at ages and free space.
	tendForksEvery = 5 * time.Second
	// forkTurn bounds how long one fork that is busy keeps the others waiting.
	forkTurn = 10 * time.Second

	// The reserve is what a file system is to have free before forks may use it:
	// a part of it, and not more than so much. It is more than what makes a
	// journal of its own give up history (journal/room.go).
	reservePart     = 8
	maxReserveBytes = 8 << 30
	// A quota that nobody chose is this part of what is free above the reserve.
	defaultQuotaPart = 4
	maxDefaultQuota  = 64 << 30
)

// forkSpace is the journal.Allowance of a fork's overlays together.
type forkSpace struct {
	site  *Site
	name  string
	quota int64

	mu   sync.Mutex
	lent int64 // beyond the quota, while what was overwritten is given back
	used int64
	full bool // the last Take was refused
}

var _ journal.Allowance = (*forkSpace)(nil)

// Take implements journal.Allowance.
func (f *forkSpace) Take(bytes int64, renewing bool) error {
	free, err := f.site.forkRoom()
	f.mu.Lock()
	defer f.mu.Unlock()
	quota := f.quota
	if renewing {
		quota += f.lent
	}
	switch {
	case err != nil:
	case f.used+bytes > quota:
		err = fmt.Errorf("fork %s has %d bytes of its quota of %d: %w", f.name, f.used, f.quota, vfs.ErrNoSpace)
	case free < bytes:
		err = fmt.Errorf("fork %s: what is left of the file system is production's: %w", f.name, vfs.ErrNoSpace)
	}
	if f.full = err != nil; !f.full {
		f.used += bytes
	}
	return err
}

// Give implements journal.Allowance.
func (f *forkSpace) Give(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used -= bytes
}

func (f *forkSpace) figures() (used int64, full bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used, f.full
}

// open counts what a member has when it is opened, and grants it room beyond the quota
// for giving back what was overwritten.
func (f *forkSpace) open(member *journal.Store, segmentBytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used += member.Stats().JournalBytes
	f.lent += 2 * segmentBytes
}

// forkRoots are the directories whose file systems forks take room of: by overlays,
// and by the history that they hold.
func (s *Site) forkRoots() []string {
	if s.cfg.JournalRoot != "" {
		return []string{s.cfg.Root, s.cfg.JournalRoot}
	}
	return []string{s.cfg.Root}
}

// aboveReserve is how much of a file system is free beyond its reserve; negative
// where less is free.
func (s *Site) aboveReserve(dir string) (bytes, reserve int64, err error) {
	total, free, err := s.cfg.FS.Space(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("look for free space of %s: %w", dir, err)
	}
	reserve = min(total/reservePart, maxReserveBytes)
	return free - reserve, reserve, nil
}

// forkRoom is how many bytes forks may write now: they stop at a distance from the
// reserve, at which they would be given up.
func (s *Site) forkRoom() (int64, error) {
	room := int64(1) << 62
	for _, dir := range s.forkRoots() {
		bytes, reserve, err := s.aboveReserve(dir)
		if err != nil {
			return 0, err
		}
		room = min(room, bytes-reserve/4)
	}
	return max(0, room), nil
}

// tendForks looks after the forks until ctx ends.
func (s *Site) tendForks(ctx context.Context) {
	for {
		timer := s.cfg.Clock.NewTimer(tendForksEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
		s.TendForks(ctx)
	}
}

// TendForks gives up the forks that are too old, and all if a file system is short
// of space; ends what could not be ended before; opens what did not open; and forgets
// those that were given up long ago. It is called from time to time by itself.
func (s *Site) TendForks(ctx context.Context) {
	reason, err := s.shortage()
	if err != nil {
		s.cfg.Log.Warn("forks: free space is not known", "error", err)
	}
	for _, name := range s.forkNames() {
		if f := s.forkOf(name); f == nil || s.isCommitting(f) {
			continue // it may have its key for long, and its group sees to it
		}
		turn, cancel := context.WithTimeout(ctx, forkTurn)
		s.tendFork(turn, name, reason)
		cancel()
	}
}

// shortage tells which file system has less free than its reserve; empty: none.
func (s *Site) shortage() (reason string, err error) {
	for _, dir := range s.forkRoots() {
		bytes, reserve, failed := s.aboveReserve(dir)
		switch {
		case failed != nil:
			err = errors.Join(err, failed)
		case bytes < 0:
			reason = fmt.Sprintf("the file system of %s has less than %d bytes free, which are production's", dir, reserve)
		}
	}
	return reason, err
}

// forkNames are the names of all forks, ascending: the order in which whoever needs
// several takes their keys.
func (s *Site) forkNames() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.forks))
}

// tendFork is TendForks for one fork. One that is busy is left for the next time.
func (s *Site) tendFork(ctx context.Context, name, shortage string) {
	unlock, err := s.locks.Lock(ctx, forkKey(name))
	if err != nil {
		return
	}
	defer unlock()
	f := s.forkOf(name)
	if f == nil {
		return
	}
	trouble := ""
	if err := s.tend(ctx, f, shortage); err != nil {
		trouble = err.Error()
	}
	if trouble != "" && trouble != f.trouble {
		s.cfg.Log.Warn("fork needs attention", "fork", name, "error", trouble)
	}
	f.trouble = trouble
}

// tend does what is due with a fork, whose key must be held.
func (s *Site) tend(ctx context.Context, f *fork, shortage string) error {
	if s.isCommitting(f) {
		return nil
	}
	r, now := f.record, s.cfg.Clock.Now()
	reason := shortage
	if reason == "" && now.Sub(r.Created) > r.MaxAge {
		reason = "it is older than " + r.MaxAge.String()
	}
	switch {
	case r.State == ForkOpen && reason != "":
		return s.giveUp(ctx, f, reason)
	case r.State == ForkOpen && f.members == nil:
		return s.reopenFork(ctx, f)
	case r.State == ForkOpen:
		return s.showFork(f)
	case r.State != ForkGivenUp || !r.Removed: // its end was interrupted, or that of its record
		state := r.State
		if state == ForkCreating {
			state = ForkDiscarding
		}
		return s.removeFork(ctx, f, state, r.Reason)
	case now.Sub(r.Ended) > forkRecordAge:
		return s.removeFork(ctx, f, ForkDiscarding, "")
	}
	return nil
}

// reopenFork opens a fork that is not open and should be. One that never will again
// is given up. The fork's key must be held.
func (s *Site) reopenFork(ctx context.Context, f *fork) error {
	err := s.openFork(f)
	for _, final := range []error{journal.ErrNotStore, journal.ErrHorizon, journal.ErrUnknownPosition, journal.ErrForeign} {
		if errors.Is(err, final) {
			return s.giveUp(ctx, f, err.Error())
		}
	}
	return err
}

// yieldForks gives up all open forks, because production finds no room; false if there
// was none. It is called without a lock, by the write that needs the room.
func (s *Site) yieldForks(ctx context.Context) bool {
	any := false
	for _, name := range s.forkNames() {
		if f := s.forkOf(name); f == nil || s.isCommitting(f) {
			continue // its key may be held for long
		}
		turn, cancel := context.WithTimeout(ctx, forkTurn)
		done, err := s.giveUpFork(turn, name, "production found no room to write")
		cancel()
		if err != nil {
			s.cfg.Log.Warn("giving up a fork failed", "fork", name, "error", err)
		}
		any = any || done
	}
	return any
}

// releaseFrom closes the forks of a volume whose store is about to be closed. Where
// another store takes its place they are given up; the others wait until reopen, which
// must be called, opens them again.
func (s *Site) releaseFrom(ctx context.Context, id journal.VolumeID, replaced bool) (reopen func(), err error) {
	var waiting []func()
	reopen = func() {
		for _, wake := range waiting {
			wake()
		}
	}
	for _, name := range s.forkNames() {
		s.mu.Lock()
		holds := s.forks[name] != nil && s.forks[name].holds(id)
		s.mu.Unlock()
		switch {
		case !holds:
		case replaced:
			_, err = s.giveUpFork(ctx, name, "the replica of volume "+id.String()+" was replaced by a whole image")
		default:
			var wake func()
			if wake, err = s.closeForAWhile(ctx, name); wake != nil {
				waiting = append(waiting, wake)
			}
		}
		if err != nil {
			return reopen, err
		}
	}
	return reopen, nil
}

// closeForAWhile closes a fork and keeps everybody else from it until wake.
func (s *Site) closeForAWhile(ctx context.Context, name string) (wake func(), err error) {
	unlock, err := s.locks.Lock(ctx, forkKey(name))
	if err != nil {
		return nil, err
	}
	f := s.forkOf(name)
	if f == nil || f.members == nil {
		unlock()
		return nil, nil
	}
	return func() {
		defer unlock()
		if err := s.tend(context.WithoutCancel(ctx), f, ""); err != nil {
			s.cfg.Log.Warn("fork does not open", "fork", name, "error", err)
		}
	}, s.closeFork(f)
}

// loadForks finishes what a crash interrupted, and opens the forks that are to be
// open. It runs before anybody else does.
func (s *Site) loadForks(ctx context.Context) error {
	records, err := loadForkRecords(s.db)
	if err != nil {
		return err
	}
	for _, r := range records {
		s.forks[r.Name] = &fork{record: r}
	}
	for _, r := range records {
		s.abandonCommits(ctx, r.Group)
	}
	s.TendForks(ctx)
	return nil
}

func isFull(err error) bool { return errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, journal.ErrFull) }
