package journal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// keepFree is how many files of dropped segments are kept for reuse. A reused
// file's blocks are already written, so that syncing it moves no metadata.
const keepFree = 4

// maxUnsealed bounds the complete segments that wait for their footer; then
// the append that needs another segment seals them itself.
const maxUnsealed = 8

// room makes sure that the active segment takes r. appendMu must be held.
func (s *Store) room(r *Record) error {
	if s.active != nil && s.active.fits(r) {
		return nil
	}
	s.mu.RLock()
	waiting := len(s.toSeal)
	s.mu.RUnlock()
	if waiting >= maxUnsealed {
		if err := s.sealPending(); err != nil {
			return err
		}
	}
	need := blockBytes + frameBytes(len(r.Payload)) + footerBytes(1, 1, infoRoomBytes(len(r.Payload)))
	g, err := s.takeSegment(need)
	if err != nil {
		return err
	}
	g.timeline, g.first, g.last = r.Position.Timeline, r.Position.Seq, r.Position.Seq-1
	h := segmentHeader{volume: s.volume, id: g.id, timeline: g.timeline, first: g.first, bytes: g.bytes, created: s.cfg.Clock.Now()}
	if _, err := g.file.WriteAt(h.encode(), 0); err != nil {
		return s.poison(fmt.Errorf("begin segment %s: %w", g.name, errors.Join(err, g.file.Close())))
	}
	s.retireActive()
	s.mu.Lock()
	s.segments[g.id] = g
	s.unsynced = append(s.unsynced, g)
	s.mu.Unlock()
	s.active = g
	s.wakeRun()
	return nil
}

// retireActive hands the active segment over to be sealed. One that a record
// was meant for and never got is given back: it has nothing to seal. appendMu
// must be held.
func (s *Store) retireActive() {
	g := s.active
	if g == nil {
		return
	}
	s.active = nil
	s.mu.Lock()
	empty := g.empty()
	if empty {
		delete(s.segments, g.id)
		s.unsynced = slices.DeleteFunc(s.unsynced, func(u *segment) bool { return u == g })
	} else {
		s.toSeal = append(s.toSeal, g)
	}
	s.mu.Unlock()
	if empty {
		s.releaseSegment(g)
	}
}

// takeSegment returns a segment file of at least need bytes whose name is
// durable and which nobody else knows. ErrFull leaves the store as it was.
func (s *Store) takeSegment(need int64) (*segment, error) {
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if g := s.spare; g != nil && g.bytes >= need {
		s.spare = nil
		return g, nil
	}
	bytes := max(s.cfg.SegmentBytes, (need+blockBytes-1)&^(blockBytes-1))
	if s.spare != nil { // too small for a record of another site's making
		s.free = append(s.free, s.spare.name)
		if err := s.spare.file.Close(); err != nil {
			return nil, fmt.Errorf("close spare segment: %w", err)
		}
		s.spare = nil
	}
	return s.makeSegment(bytes)
}

// prepareSpare has a segment file ready before it is needed. Ids rise in the
// order of use, because no file is made while another waits.
func (s *Store) prepareSpare() error {
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if s.spare != nil {
		return nil
	}
	g, err := s.makeSegment(s.cfg.SegmentBytes)
	if err == nil {
		s.spare = g
	}
	return err
}

// makeSegment makes or reuses a file. spareMu must be held.
func (s *Store) makeSegment(bytes int64) (*segment, error) {
	fs := s.cfg.FS
	id := s.nextID
	if id > maxSegmentID {
		return nil, fmt.Errorf("make segment %d: %w", id, ErrFull)
	}
	g := &segment{id: id, volume: s.volume, name: segmentName(id), bytes: bytes, end: blockBytes}
	g.users.Store(1)
	name := s.cfg.file(g.name)
	reused := false
	if n := len(s.free); n > 0 && bytes == s.cfg.SegmentBytes {
		if err := fs.Rename(s.cfg.file(s.free[n-1]), name); err != nil {
			return nil, fmt.Errorf("reuse segment %s: %w", s.free[n-1], err)
		}
		s.free = s.free[:n-1]
		reused = true
	}
	s.nextID++
	var err error
	if reused {
		g.file, err = fs.Open(name)
	} else {
		g.file, err = fs.Create(name)
	}
	if err == nil {
		err = g.file.Allocate(0, bytes)
	}
	if err == nil {
		// Size and blocks are durable before there are records, whose syncs
		// then have nothing else to wait for, and nothing else to lose.
		if err = g.file.Sync(); err != nil && !errors.Is(err, vfs.ErrNoSpace) {
			err = s.poison(err)
		}
	}
	if err == nil {
		// A name that may not be there after a power loss must never be
		// taken for durable, not even by the sync after this one.
		if err = fs.SyncDir(s.cfg.file(journalDir)); err != nil {
			err = s.poison(err)
		}
	}
	if err != nil {
		if g.file != nil {
			_ = g.file.Close()
			_ = fs.Remove(name) // a leftover is found and reused by the next Open
		}
		return nil, fmt.Errorf("make segment %s: %w", g.name, mapFull(err))
	}
	return g, nil
}

// releaseSegment gives up one use of a segment; the last one recycles it.
func (s *Store) releaseSegment(g *segment) {
	if g.users.Add(-1) > 0 {
		return
	}
	if err := g.file.Close(); err != nil {
		s.cfg.Log.Warn("closing a dropped segment failed", "segment", g.name, "error", err)
	}
	s.mu.RLock()
	closed := s.closed
	s.mu.RUnlock()
	if closed { // a view outlived the store: the files are its successor's now
		return
	}
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if len(s.free) < keepFree && g.bytes == s.cfg.SegmentBytes {
		s.free = append(s.free, g.name)
		return
	}
	if err := s.cfg.FS.Remove(s.cfg.file(g.name)); err != nil {
		s.cfg.Log.Warn("removing a dropped segment failed; the next open reuses its file", "segment", g.name, "error", err)
	}
}
