package journal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// firstSegmentBytes is the size of the segment that a store has ready before
// anything is written: small, because it may never be, and large enough that
// the next one is ready when it is full.
const firstSegmentBytes = 4 << 20

// zeroesWorthBytes is how much of a segment a sync covered at most, on average,
// for the next new file to be filled with zeroes before it is used. That writes
// the segment twice, and spares each sync a wait for the file system's own log,
// some 50 µs: where more was appended between two of them, as by users who
// flush rarely, the zeroes cost more than they bring.
const zeroesWorthBytes = 64 << 10

// zeroChunkBytes is what is written between two syncs of a new file, so that a
// flush of records never waits for more than that.
const zeroChunkBytes = 2 << 20

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
	if errors.Is(err, ErrFull) {
		s.noteRefused()
	}
	if err != nil {
		return err
	}
	g.timeline, g.first, g.last = r.Position.Timeline, r.Position.Seq, r.Position.Seq-1
	h := segmentHeader{volume: s.volume, id: g.id, timeline: g.timeline, first: g.first, bytes: g.bytes, created: s.cfg.Clock.Now()}
	if _, err := g.file.WriteAt(h.encode(), 0); errors.Is(err, vfs.ErrNoSpace) {
		s.noteCopies()
		s.giveAllowance(g.bytes)
		s.releaseSegment(g) // nobody knows it yet
		return fmt.Errorf("begin segment %s: %w", g.name, mapFull(err))
	} else if err != nil {
		return s.poison(fmt.Errorf("begin segment %s: %w", g.name, errors.Join(err, g.file.Close())))
	}
	s.retireActive()
	s.mu.Lock()
	s.segments[g.id] = g
	s.unsynced = append(s.unsynced, g)
	rotated := s.index.rotate(g.id, s.cfg.youngExtents)
	s.mu.Unlock()
	if rotated {
		wake(s.wakeRuns)
	}
	s.active = g
	s.tookSegment.Store(true)
	s.taken.Add(1)
	wake(s.wakeSupply)
	wake(s.wakeSeal)
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
		s.giveAllowance(g.bytes)
		s.releaseSegment(g)
	}
}

// takeSegment returns a segment file of at least need bytes whose name is
// durable and which nobody else knows. ErrFull leaves the store as it was.
// appendMu must be held.
func (s *Store) takeSegment(need int64) (*segment, error) {
	s.noteSyncs()
	if g := s.ready.take(need); g != nil {
		return g, nil
	}
	s.hurried.Add(1)
	defer s.hurried.Add(-1)
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if g := s.ready.take(need); g != nil { // made while this waited
		return g, nil
	}
	if err := s.dropReady(); err != nil { // too small for a record of another site's making
		return nil, err
	}
	if err := s.prepareReserve(); err != nil {
		return nil, err
	}
	return s.makeSegment(max(s.cfg.SegmentBytes, (need+blockBytes-1)&^(blockBytes-1)), false, s.renewing)
}

// noteSyncs decides at the end of a segment what is worth doing for the next new
// one. Of the first segment nothing is known, and whoever begins with a volume
// flushes what it writes. appendMu must be held.
func (s *Store) noteSyncs() {
	syncs := s.syncs.Load()
	s.zeroes.Store(s.active == nil || int64(syncs-s.syncsBefore)*zeroesWorthBytes >= s.active.end)
	s.syncsBefore = syncs
}

// makeSegment makes or reuses a file. spareMu must be held.
//
// The blocks of a new file are reserved and not written, and a flush of the
// first record in such a block has to wait until the file system has noted in
// its own log that the block is written now, behind whatever else is on the
// way to that log. With zeroed the file is written once before it is used.
func (s *Store) makeSegment(bytes int64, zeroed, renewing bool) (*segment, error) {
	id := s.nextID
	if id > maxSegmentID {
		return nil, fmt.Errorf("make segment %d: %w", id, ErrFull)
	}
	if err := s.cannotFit(bytes); err != nil {
		return nil, err
	}
	g := &segment{id: id, volume: s.volume, name: segmentName(id), bytes: bytes, end: blockBytes}
	g.users.Store(1)
	reused, err := s.openFile(g)
	taken := int64(0) // of the allowance
	if err == nil {
		if err = s.takeAllowance(bytes, renewing); err == nil {
			taken = bytes
		}
	}
	if err == nil {
		err = g.file.Allocate(0, bytes)
	}
	if err == nil && zeroed && !reused {
		err = s.writeZeroes(g)
	}
	if err == nil {
		err = s.settleFile(g)
	}
	if err != nil {
		if g.file != nil {
			_ = g.file.Close()
			if s.cfg.FS.Remove(s.cfg.file(g.name)) == nil { // else the next Open finds and reuses it
				s.nextID = id
			}
		}
		s.giveAllowance(taken)
		return nil, fmt.Errorf("make segment %s: %w", g.name, mapFull(err))
	}
	return g, nil
}

// cannotFit returns why a new file of so many bytes is not even tried: the last
// attempt was in vain a moment ago, and there is no file to be reused.
func (s *Store) cannotFit(bytes int64) error {
	if len(s.free) > s.reserved() && bytes == s.cfg.SegmentBytes {
		return nil
	}
	err := s.hopeless()
	if err == nil {
		return nil
	}
	if _, free, spaceErr := s.cfg.FS.Space(s.cfg.file(journalDir)); spaceErr != nil || free >= bytes {
		return nil
	}
	return err
}

// openFile gives a new segment a file under its name. spareMu must be held.
func (s *Store) openFile(g *segment) (reused bool, err error) {
	fs, name := s.cfg.FS, s.cfg.file(g.name)
	if n := len(s.free); n > s.reserved() && g.bytes == s.cfg.SegmentBytes {
		if err := fs.Rename(s.cfg.file(s.free[n-1]), name); err != nil {
			return false, fmt.Errorf("reuse segment %s: %w", s.free[n-1], err)
		}
		s.free = s.free[:n-1]
		s.nextID++
		g.file, err = fs.Open(name)
		return true, err
	}
	s.nextID++
	g.file, err = fs.Create(name)
	return false, err
}

// writeZeroes fills a new segment's file until an append waits for it, or the store is to be closed.
func (s *Store) writeZeroes(g *segment) error {
	zeroes := make([]byte, min(zeroChunkBytes, g.bytes))
	for off := int64(0); off < g.bytes && s.hurried.Load() == 0 && !s.closing.Load(); off += int64(len(zeroes)) {
		if off > 0 {
			if err := s.syncNew(g); err != nil {
				return err
			}
		}
		if _, err := g.file.WriteAt(zeroes[:min(int64(len(zeroes)), g.bytes-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// syncNew syncs a file that holds no records yet.
func (s *Store) syncNew(g *segment) error {
	err := g.file.Sync()
	if err == nil || errors.Is(err, vfs.ErrNoSpace) {
		return err
	}
	return s.poison(err)
}

// settleFile makes a new segment's file and name durable.
func (s *Store) settleFile(g *segment) error {
	// Size and blocks are durable before there are records, whose syncs
	// then have nothing else to wait for, and nothing else to lose.
	if err := s.syncNew(g); err != nil {
		return err
	}
	// A name that may not be there after a power loss must never be
	// taken for durable, not even by the sync after this one.
	if err := s.cfg.FS.SyncDir(s.cfg.file(journalDir)); err != nil {
		return s.poison(err)
	}
	return nil
}
