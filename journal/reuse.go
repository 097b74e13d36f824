package journal

import (
	"errors"
	"time"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// A file of a dropped segment is kept for reuse: its blocks are already written, so that
// syncing it moves no metadata, and its pages are in memory. keepFree is how many are kept in
// any case, keepBusy how many while segments are taken as fast as that: destage drops some at
// once, and what it removes is made anew a moment later.
const (
	keepFree = 4
	keepBusy = 12
	// keepFor is how long what was taken counts.
	keepFor = maintainEvery
)

// reusePace tells how many files to keep from how many were taken lately. Guarded by spareMu.
type reusePace struct {
	began  time.Time // of the present period
	before uint64    // Store.taken then
	last   int       // taken in keepFor of the period before, at most keepBusy
}

func (r *reusePace) keep(now time.Time, taken uint64) int {
	current := float64(taken - r.before)
	if passed := now.Sub(r.began); passed >= keepFor {
		current *= float64(keepFor) / float64(passed)
		*r = reusePace{began: now, before: taken, last: int(min(current, keepBusy))}
	}
	return max(keepFree, r.last, int(min(current, keepBusy)))
}

// toKeep returns how many files are to be kept for reuse now, those included that are ready
// beside the next one. More than keepFree is for where there is room for as many again.
// spareMu must be held.
func (s *Store) toKeep() int {
	files := s.reusePace.keep(s.cfg.Clock.Now(), s.taken.Load())
	if files == keepFree || s.pressed.Load() {
		return keepFree
	}
	_, free, err := s.cfg.FS.Space(s.cfg.file(journalDir))
	if err != nil || free < keepBusy*s.cfg.SegmentBytes {
		return keepFree
	}
	return files
}

// trimReuse removes the files that a quieter store does not need, one at a time.
func (s *Store) trimReuse() {
	for s.trimOne() {
	}
}

func (s *Store) trimOne() bool {
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if s.check() != nil { // closed: the files are a successor's
		return false
	}
	if len(s.free) <= s.reserved() || s.reusable() <= s.toKeep() {
		return false
	}
	s.removeReusable(s.free[0])
	s.free = s.free[1:]
	return true
}

// removeReusable removes a file for reuse. spareMu must be held.
func (s *Store) removeReusable(name string) (gained bool) {
	if err := s.cfg.FS.Remove(s.cfg.file(name)); err != nil {
		s.cfg.Log.Warn("removing a file for reuse failed; the next open removes it", "segment", name, "error", err)
		return false
	}
	return true
}

// reusable is how many files could become segments, or be removed, but for one that has to be
// ready. spareMu must be held.
func (s *Store) reusable() int { return len(s.free) + max(0, s.ready.len()-1) }

// releaseSegment gives up one use of a segment; the last one recycles it. The removal of a
// large file takes its time: appends that need one do not wait for that.
func (s *Store) releaseSegment(g *segment) {
	if g.users.Add(-1) > 0 {
		return
	}
	if err := g.file.Close(); err != nil {
		s.cfg.Log.Warn("closing a dropped segment failed", "segment", g.name, "error", err)
	}
	if s.isClosed() { // a view outlived the store, or Close, which has dropMu, lets go of the live index
		return
	}
	s.dropMu.Lock()
	defer s.dropMu.Unlock()
	if s.isClosed() { // meanwhile: the files are its successor's now
		return
	}
	if _, err := s.cfg.FS.Stat(s.cfg.file(g.name)); errors.Is(err, vfs.ErrNotExist) {
		return // a drain has removed it while it was read
	}
	if s.keepForReuse(g) {
		return
	}
	if err := s.cfg.FS.Remove(s.cfg.file(g.name)); err != nil {
		s.cfg.Log.Warn("removing a dropped segment failed; the next open reuses its file", "segment", g.name, "error", err)
	}
}

func (s *Store) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}

// keepForReuse keeps the file of a dropped segment, unless it is of no use or one too many.
func (s *Store) keepForReuse(g *segment) bool {
	if s.copies.Load() || s.isOverlay() || g.bytes != s.cfg.SegmentBytes || g.inherited || g.generation != 0 {
		return false
	}
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if s.reusable() >= s.toKeep() {
		return false
	}
	s.free = append(s.free, g.name)
	return true
}
