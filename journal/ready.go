package journal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// readyAhead is how many segments are ready for appends at most. Whoever writes as fast as
// memory does fills a segment sooner than a busy disk has made one file durable, and
// its name; with some ahead it is enough that they are made as fast on average.
const readyAhead = 3

// readySegments are segment files that wait to become active, their headers not written, in
// the order in which they will: that of their ids. Whoever puts one there holds spareMu, so
// that ids rise in the order of use; whoever takes one need not wait for that.
type readySegments struct {
	mu    sync.Mutex
	queue []*segment
}

func (r *readySegments) put(g *segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, g)
}

// take returns the first one, if it has at least need bytes.
func (r *readySegments) take(need int64) *segment {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 || r.queue[0].bytes < need {
		return nil
	}
	g := r.queue[0]
	r.queue = slices.Delete(r.queue, 0, 1)
	return g
}

// takeBehind takes all but the first n.
func (r *readySegments) takeBehind(n int) []*segment {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) <= n {
		return nil
	}
	rest := slices.Clone(r.queue[n:])
	r.queue = slices.Delete(r.queue, n, len(r.queue))
	return rest
}

func (r *readySegments) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue)
}

// prepareReady has a segment file ready before it is needed.
func (s *Store) prepareReady() error {
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	s.mu.RLock()
	err, written := s.usable(), s.appended > 0
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := s.prepareReserve(); s.ready.len() > 0 && errors.Is(err, ErrFull) {
		return nil // it waits for room; the next append does not
	} else if err != nil || s.ready.len() > 0 {
		return err
	}
	bytes, zeroed := s.cfg.SegmentBytes, s.zeroes.Load()
	if !written {
		bytes, zeroed = min(bytes, firstSegmentBytes), true
	}
	return s.makeReady(bytes, zeroed)
}

// makeReady makes a file, which is the next to become active but for those that are ready.
// spareMu must be held.
func (s *Store) makeReady(bytes int64, zeroed bool) error {
	g, err := s.makeSegment(bytes, zeroed, false)
	if err == nil {
		s.ready.put(g)
		s.notInVain()
	}
	return err
}

// readyMore has one more file ready, if there is one for reuse, and reports whether it did.
// It takes no room that was not taken before.
func (s *Store) readyMore() (more bool, _ error) {
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	err, n := s.check(), s.ready.len()
	if err != nil || n == 0 || n >= readyAhead || len(s.free) <= s.reserved() {
		return false, err
	}
	return true, s.makeReady(s.cfg.SegmentBytes, false)
}

// dropReady gives the files that are ready back for reuse, and removes what is smaller
// than others. spareMu must be held.
func (s *Store) dropReady() error { return s.dropReadyBehind(0) }

// dropReadyBehind is dropReady but for the first n.
func (s *Store) dropReadyBehind(n int) error {
	var errs []error
	for _, g := range s.ready.takeBehind(n) {
		s.giveAllowance(g.bytes)
		if err := g.file.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close segment %s, which was ready: %w", g.name, err))
			continue
		}
		if g.bytes == s.cfg.SegmentBytes {
			s.free = append(s.free, g.name)
		} else if err := s.cfg.FS.Remove(s.cfg.file(g.name)); err != nil {
			s.cfg.Log.Warn("removing a segment that was ready failed; the next open removes it", "segment", g.name, "error", err)
		}
	}
	return errors.Join(errs...)
}
