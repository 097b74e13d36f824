package journal

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Recovery. The catalog names the sealed segments; whatever other segment
// files there are were being written, or wait for use, when the store stopped.
// Each timeline's unsealed segments are scanned in order; the first frame that
// is not whole ends the timeline, unless something proves that its seq was
// durable. The decision table is in docs/format.md, "Recovery".

// recover finds the tip of every timeline, makes it durable and seals what
// was found. Nothing on disk changes before all damage is ruled out.
func (s *Store) recover() error {
	candidates, err := s.findUnsealed()
	if err != nil {
		return err
	}
	var keep []*segment
	ended := map[TimelineID]bool{}
	for i, g := range candidates {
		follows := !ended[g.timeline] && s.tree.last[g.timeline]+1 == g.first
		if !follows {
			continue
		}
		whole, err := s.scanUnsealed(g, candidates[i+1:])
		if err != nil {
			return err
		}
		ended[g.timeline] = !whole
		if !g.empty() {
			s.tree.last[g.timeline] = g.last
			keep = append(keep, g)
		}
	}
	if err := s.checkFloor(); err != nil {
		return err
	}
	for _, g := range candidates {
		if !slices.Contains(keep, g) {
			if err := g.file.Close(); err != nil {
				return err
			}
			s.free = append(s.free, g.name)
		}
	}
	s.forkFirst = s.state.CleanTip == nil
	return s.sealRecovered(keep)
}

// findUnsealed opens the segment files that the catalog does not name. Those
// without a header of their own are free files.
func (s *Store) findUnsealed() ([]*segment, error) {
	names, err := s.cfg.FS.ReadDir(s.cfg.file(journalDir))
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	var found []*segment
	for _, name := range names {
		id, ok := parseSegmentName(name)
		if _, sealed := s.segments[id]; !ok || sealed {
			continue // not ours to judge, or known
		}
		s.nextID = max(s.nextID, id+1)
		g, err := s.openUnsealed(id)
		if err != nil {
			return nil, err
		}
		if g != nil {
			found = append(found, g)
		}
	}
	return found, nil
}

// openUnsealed opens one file for scanning; nil if it holds no segment that
// can belong to the journal's end. The file is synced and its cached pages are
// dropped first: after a failed sync the cache may hold what the disk does
// not, and only the disk counts.
func (s *Store) openUnsealed(id segmentID) (*segment, error) {
	name := segmentName(id)
	file, err := s.cfg.FS.Open(s.cfg.file(name))
	if err != nil {
		return nil, fmt.Errorf("open segment %s: %w", name, err)
	}
	asFree := func() (*segment, error) {
		s.free = append(s.free, name)
		return nil, file.Close()
	}
	if err := file.Sync(); err != nil {
		return nil, fmt.Errorf("sync segment %s: %w", name, errors.Join(err, file.Close()))
	}
	file.DropCache()
	block := make([]byte, blockBytes)
	if err := readFull(file, block, 0); errors.Is(err, io.ErrUnexpectedEOF) {
		return asFree()
	} else if err != nil {
		return nil, fmt.Errorf("read header of %s: %w", name, errors.Join(err, file.Close()))
	}
	h, err := decodeSegmentHeader(block)
	if errors.Is(err, ErrVersion) {
		return nil, errors.Join(locate(err, name, 0), file.Close())
	}
	size, sizeErr := file.Size()
	if sizeErr != nil {
		return nil, fmt.Errorf("read size of %s: %w", name, errors.Join(sizeErr, file.Close()))
	}
	_, known := s.tree.timelines[h.timeline]
	if err != nil || h.id != id || !known || h.bytes > size {
		return asFree() // never begun, or another segment's file waiting for reuse
	}
	if h.volume != s.volume {
		return nil, errors.Join(&CorruptError{File: name, What: "segment header", Wanted: "volume " + s.volume.String(), Found: h.volume.String(), Kind: ErrForeign}, file.Close())
	}
	for _, sealed := range s.lineLocked(h.timeline) {
		if sealed.id > id {
			return asFree() // left behind by an earlier recovery
		}
	}
	g := &segment{id: id, volume: s.volume, timeline: h.timeline, first: h.first, last: h.first - 1, bytes: h.bytes, name: name, file: file, end: blockBytes, closedAt: h.created}
	g.users.Store(1)
	return g, nil
}

// scanUnsealed reads a segment up to its last whole frame. whole is false
// when a frame behind it was torn, after which the timeline cannot go on.
func (s *Store) scanUnsealed(g *segment, later []*segment) (whole bool, err error) {
	scanner := newFrameScanner(g, g.bytes-blockBytes)
	for {
		f, err := scanner.scan()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if errors.Is(err, ErrCorrupt) {
			proof, scanErr := findProof(g, scanner.off, scanner.next, later)
			if scanErr != nil {
				return false, scanErr
			}
			if proof != nil || s.floor(g.timeline) >= scanner.next {
				return false, fmt.Errorf("seq %d of timeline %s was durable: %w", scanner.next, g.timeline, err)
			}
			return hasSuccessor(g, scanner.next, later), nil
		}
		if err != nil {
			return false, err
		}
		g.note(&f.Record, f.off)
		if f.Kind == KindCheckpoint {
			c, err := checkpointOf(&f.Record)
			if err != nil {
				return false, err
			}
			g.noteCheckpoint(c, len(f.Payload))
		}
		if f.Kind == KindResize && f.Length > s.state.SizeBytes {
			return false, &CorruptError{File: g.name, Offset: f.off, What: "volume size", Wanted: fmt.Sprintf("at most %d, the catalog's", s.state.SizeBytes), Found: fmt.Sprint(f.Length)}
		}
	}
}

// hasSuccessor reports whether a later segment of the timeline begins with
// seq: then the invalid bytes at the end of g are just its unused rest.
func hasSuccessor(g *segment, next Seq, later []*segment) bool {
	return slices.ContainsFunc(later, func(l *segment) bool { return l.timeline == g.timeline && l.first == next })
}

// checkFloor compares the recovered timelines with what the catalog knows to
// have been durable: fork points, pins, the horizon, a clean tip.
func (s *Store) checkFloor() error {
	for id := range s.tree.timelines {
		if floor := s.floor(id); s.tree.last[id] < floor && s.descends(id) {
			return &CorruptError{File: journalDir, What: "timeline " + id.String(), Wanted: fmt.Sprintf("records up to seq %d", floor), Found: fmt.Sprintf("up to seq %d", s.tree.last[id])}
		}
	}
	return nil
}

// descends reports whether the base lies on the path of a timeline's tip; the
// records of others were destaged.
func (s *Store) descends(id TimelineID) bool {
	_, err := s.tree.path(s.state.Base, Position{id, s.tree.last[id]})
	return err == nil
}

// floor is the highest seq of a timeline that the catalog proves durable.
func (s *Store) floor(id TimelineID) Seq {
	var floor Seq
	raise := func(p Position) {
		if p.Timeline == id {
			floor = max(floor, p.Seq)
		}
	}
	raise(s.state.Base)
	raise(s.state.Horizon)
	for _, line := range s.tree.timelines {
		raise(line.Parent)
	}
	for _, p := range s.pins {
		raise(p)
	}
	if s.state.CleanTip != nil {
		raise(*s.state.CleanTip)
	}
	return floor
}

// sealRecovered seals what recovery kept, which also makes it durable.
func (s *Store) sealRecovered(keep []*segment) error {
	for _, g := range keep {
		s.segments[g.id] = g
	}
	for _, g := range keep {
		f, err := g.makeFooter(g.snapshot())
		if err != nil {
			return err
		}
		if err := g.writeFooter(f); err != nil {
			return err
		}
	}
	if len(keep) == 0 {
		return nil
	}
	if err := s.cfg.FS.SyncDir(s.cfg.file(journalDir)); err != nil {
		return fmt.Errorf("sync journal directory: %w", err)
	}
	err := s.cat.db.Update(func(tx kv.Tx) error {
		for _, g := range keep {
			e := segmentEntry{Timeline: g.timeline, First: g.first, Last: g.last, EndBytes: g.end, Bytes: g.bytes, ClosedAt: g.closedAt}
			if err := s.cat.saveSegment(tx, g.id, e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("enter recovered segments into the catalog: %w", err)
	}
	for _, g := range keep {
		g.sealed, g.changes = true, nil
		s.cfg.Log.Info("recovered journal segment", "volume", s.volume, "segment", g.name, "first", g.first, "last", g.last)
	}
	return nil
}
