package journal

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// A store that finds no room goes on, for hours if need be: what can be given up
// is (see makeRoom), writes that need more are refused, and as soon as there is
// room again everything is as before, without anybody's help. Until then it
// must not wear anything out: an attempt in vain is not repeated before
// something has changed or some time has passed, and little is logged.

const (
	// A first attempt in vain is repeated after minVainWait, each further one
	// after twice as long, up to maxVainWait; sooner when there is more room
	// than there was, or something was let go of.
	minVainWait = time.Second
	maxVainWait = 30 * time.Second
	// complainEvery is how often a lack of space that lasts is logged, and what
	// was given up meanwhile.
	complainEvery = 10 * time.Minute
	// shortSettle is how long nothing must have been short before the store
	// counts as having room: else the state would change with each segment.
	shortSettle = time.Minute
)

// shortage is what a store knows of its lack of room.
type shortage struct {
	mu    sync.Mutex
	stats SpaceStats
	last  time.Time // when something was short, or given up, last

	vain time.Time     // when the last attempt was in vain; zero: it was not
	wait time.Duration // before the next one
	free [2]int64      // freeBytes then
	hope uint64        // Store.hopes then
	err  error         // what it failed with

	toldGivenUp time.Time
	untold      int64 // bytes of history given up since
}

// SpaceStats are figures of a store's lack of room on its file systems.
type SpaceStats struct {
	ShortSince   time.Time // zero: there is room
	Refused      uint64    // appends, since Open, that found no room
	GivenUpBytes int64     // of journal, since Open, that were given up for room before their time
	// PointsGivenUp is how often, since Open, what KeepPoint kept was given up for want of
	// room: a group may have had no other recovery point on this site.
	PointsGivenUp uint64
}

// IsShort reports whether there is too little room.
func (s SpaceStats) IsShort() bool { return !s.ShortSince.IsZero() }

// String is for people: what it means that there is too little room.
func (s SpaceStats) String() string {
	return fmt.Sprintf("the backing volume has had too little room since %s: %d writes and checkpoints found none at first, %d MiB of history were given up; give it more room, or delete snapshots",
		s.ShortSince.UTC().Format(time.RFC3339), s.Refused, s.GivenUpBytes>>20)
}

// noteShort begins, or prolongs, a lack of room.
func (s *Store) noteShort() {
	now := s.cfg.Clock.Now()
	x := &s.short
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last = now
	if !x.stats.ShortSince.IsZero() {
		return
	}
	x.stats.ShortSince = now
	total, free, _ := s.cfg.FS.Space(s.cfg.file(journalDir)) // only for the log
	s.cfg.Log.Warn("backing volume is full: what can be given up is, and what needs more room is refused", "volume", s.volume, "freeBytes", free, "totalBytes", total)
}

// noteRefused counts an append that found no room, and has Run make some.
func (s *Store) noteRefused() {
	s.noteShort()
	s.wasRefused.Store(true)
	if s.hopeless() == nil {
		s.wakeRun()
	}
	s.short.mu.Lock()
	defer s.short.mu.Unlock()
	s.short.stats.Refused++
}

// noteGivenUp counts history that was given up before its time.
func (s *Store) noteGivenUp(bytes int64) {
	if bytes <= 0 {
		return
	}
	s.noteShort()
	horizon, now := s.Horizon(), s.cfg.Clock.Now()
	x := &s.short
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stats.GivenUpBytes += bytes
	x.untold += bytes
	if x.toldGivenUp.IsZero() || now.Sub(x.toldGivenUp) >= complainEvery {
		s.cfg.Log.Warn("backing volume is short of space: history was given up", "volume", s.volume, "freedBytes", x.untold, "horizon", horizon)
		x.toldGivenUp, x.untold = now, 0
	}
}

// inVain remembers that there is no room to be had now.
func (s *Store) inVain(err error) {
	s.noteShort()
	free, now := s.freeBytes(), s.cfg.Clock.Now()
	x := &s.short
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wait = min(max(2*x.wait, minVainWait), maxVainWait)
	x.vain, x.free, x.hope, x.err = now, free, s.hopes.Load(), err
}

// notInVain ends that.
func (s *Store) notInVain() {
	x := &s.short
	x.mu.Lock()
	defer x.mu.Unlock()
	x.vain, x.wait, x.err = time.Time{}, 0, nil
}

// hopeless returns what the last attempt to get room failed with, if nothing
// has changed since and it is too early for another; nil if one is worth it.
func (s *Store) hopeless() error {
	x := &s.short
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.vain.IsZero() || x.hope != s.hopes.Load() || s.cfg.Clock.Now().Sub(x.vain) >= x.wait {
		return nil
	}
	for i, free := range s.freeBytes() {
		if free-x.free[i] >= s.cfg.SegmentBytes/8 {
			return nil
		}
	}
	return x.err
}

// Lacks returns why an append is expected to find no room (ErrFull): the last attempt
// to get some was in vain, and nothing has changed since. Nil if it is worth trying.
func (s *Store) Lacks() error { return s.hopeless() }

// freeBytes is what is free where the base is and where the journal is, as far as
// that can be told.
func (s *Store) freeBytes() (free [2]int64) {
	for i, dir := range []string{s.cfg.Dir, s.cfg.file(journalDir)} {
		if _, n, err := s.cfg.FS.Space(dir); err == nil {
			free[i] = n
		}
	}
	return free
}

// watchShortage ends a lack of room that is over: for a while nothing was
// refused or given up, and there is more room than what was given up makes.
func (s *Store) watchShortage() {
	now := s.cfg.Clock.Now()
	x := &s.short
	x.mu.Lock()
	since, settled := x.stats.ShortSince, now.Sub(x.last) >= shortSettle
	x.mu.Unlock()
	if since.IsZero() || !settled {
		return
	}
	total, free, err := s.cfg.FS.Space(s.cfg.file(journalDir))
	if err != nil || free < s.lowRoom(total) {
		return
	}
	x.mu.Lock()
	x.stats.ShortSince, x.vain, x.wait, x.err = time.Time{}, time.Time{}, 0, nil
	x.mu.Unlock()
	s.cfg.Log.Info("backing volume has room again", "volume", s.volume, "freeBytes", free, "shortFor", now.Sub(since).Round(time.Second))
	wake(s.wakeRuns)
	wake(s.wakeThin)
}

// isShort reports whether the store lacks room.
func (s *Store) isShort() bool {
	s.short.mu.Lock()
	defer s.short.mu.Unlock()
	return !s.short.stats.ShortSince.IsZero()
}

// space returns the figures.
func (x *shortage) space() SpaceStats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stats
}

// letGo tells that something was let go of that may have been in the way of
// getting room.
func (s *Store) letGo() { s.hopes.Add(1) }

// grumble says when what one goroutine of Run lacks is to be logged again.
type grumble struct{ last time.Time }

// isDue reports, at a failure for lack of space, whether to log it.
func (g *grumble) isDue(err error, now time.Time) bool {
	if !errors.Is(err, ErrFull) || !g.last.IsZero() && now.Sub(g.last) < complainEvery {
		return false
	}
	g.last = now
	return true
}

// smallDisk is a file system, or a quota that it shows as its size, that is smaller than
// what may come to be on it: when it will be full is only a question of time.
type smallDisk struct {
	dir                    string
	totalBytes, wantsBytes int64
}

// smallDisks are those of the store's file systems that are too small for the volume and
// its budget now. Without a budget there are none: history is as long as there is room.
func (s *Store) smallDisks() []smallDisk {
	base, journal := s.SizeBytes(), s.Retention().JournalBytes
	if journal == 0 {
		return nil
	}
	parts := []smallDisk{{dir: s.cfg.Dir, wantsBytes: base + journal}}
	if s.cfg.JournalDir != "" {
		parts = []smallDisk{{dir: s.cfg.Dir, wantsBytes: base}, {dir: s.cfg.JournalDir, wantsBytes: journal}}
	}
	var small []smallDisk
	for _, part := range parts {
		var err error
		if part.totalBytes, _, err = s.cfg.FS.Space(part.dir); err == nil && part.totalBytes < part.wantsBytes {
			small = append(small, part)
		}
	}
	return small
}

// ShortByBytes is how much smaller the store's file systems are, or the quotas that they
// show as their size, than what the volume and its budget may come to; 0: they are not,
// or there is no budget. It asks the file systems.
func (s *Store) ShortByBytes() (bytes int64) {
	for _, disk := range s.smallDisks() {
		bytes += disk.wantsBytes - disk.totalBytes
	}
	return bytes
}

// warnOfSmallDisk says so, once, when the store is opened.
func (s *Store) warnOfSmallDisk() {
	for _, disk := range s.smallDisks() {
		s.cfg.Log.Warn("backing volume is smaller than what is to be kept on it: history will be shorter, and writes may be refused",
			"volume", s.volume, "directory", disk.dir, "totalBytes", disk.totalBytes, "wantedBytes", disk.wantsBytes)
	}
}
