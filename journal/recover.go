package journal

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Recovery. The catalog names the sealed segments; whatever other segment
// files there are were being written, or wait for use, when the store stopped.
// Each timeline's unsealed segments are scanned in order; the first frame that
// is not whole ends the timeline, unless something proves that its seq was
// durable. The decision table is in docs/format.md, "Recovery".

// recover finds the tip of every timeline, makes it durable and seals what
// was found. Nothing on disk changes before all damage is ruled out.
func (s *Store) recover(id identity) (err error) {
	found, err := s.findUnsealed()
	defer func() {
		for _, c := range found {
			err = errors.Join(err, c.close())
		}
	}()
	if err != nil {
		return err
	}
	keep, err := s.extendLines(found, func(err error) error { return err })
	if err != nil {
		return err
	}
	if err := s.checkFloor(); err != nil {
		return err
	}
	unused, err := s.unusedOf(found)
	if err != nil {
		return err
	}
	if err := upgradeIdentity(&s.cfg, id); err != nil {
		return err
	}
	s.forkFirst = s.state.CleanTip == nil
	err = s.sealRecovered(keep)
	if errors.Is(err, ErrFull) && s.forkFirst {
		// The files that disinherit is about to remove are the room for it.
		err = s.removeUnused(unused)
		unused = nil
		if err == nil {
			err = s.sealRecovered(keep)
		}
	}
	if err != nil {
		return err
	}
	if err := s.removeReplaced(); err != nil {
		return err
	}
	return s.disinherit(unused)
}

// unusedOf are the files that hold nothing, after making sure of that.
func (s *Store) unusedOf(found []*candidate) (unused []*candidate, err error) {
	for _, c := range found {
		if c.kept {
			continue
		}
		if err := s.checkUnused(c); err != nil {
			return nil, err
		}
		unused = append(unused, c)
	}
	return unused, nil
}

// disinherit keeps the files of an owner that did not close the store from being
// written to again: if it still runs somewhere, cut off, what it writes late goes
// to files that nobody reads new records from.
func (s *Store) disinherit(unused []*candidate) error {
	if !s.forkFirst {
		return s.removeUnused(s.reuse(unused))
	}
	for _, g := range s.segments {
		g.inherited = true
	}
	return s.removeUnused(unused)
}

// reuse keeps files for reuse, and returns those that are too many or of another size: what
// a store had ready and never wrote to is small, and would be no reserve for a full disk. As many
// as a busy store has are kept at first, because nobody is to wait for their removal.
func (s *Store) reuse(unused []*candidate) (rest []*candidate) {
	for _, c := range unused {
		if c.size != s.cfg.SegmentBytes || len(s.free) == keepBusy {
			rest = append(rest, c)
			continue
		}
		s.free = append(s.free, c.name)
	}
	return rest
}

func (s *Store) removeUnused(unused []*candidate) error {
	for _, c := range unused {
		if err := s.cfg.FS.Remove(s.cfg.file(c.name)); err != nil {
			return fmt.Errorf("remove unused segment %s: %w", c.name, err)
		}
	}
	return nil
}

// findReplaced lists the files that a rewrite has left behind: those of another
// generation than the catalog names.
func (s *Store) findReplaced(names []string) {
	s.replaced = nil
	for _, base := range names {
		name := path.Join(journalDir, base)
		id, ok := parseSegmentName(base)
		g := s.segments[id]
		if ok && g != nil && g.name != name {
			s.replaced = append(s.replaced, name)
		}
		if isRewritten(base) && !s.namesLocked(name) {
			s.replaced = append(s.replaced, name)
		}
	}
}

func (s *Store) namesLocked(name string) bool {
	for _, g := range s.segments {
		if g.name == name {
			return true
		}
	}
	return false
}

// removeReplaced removes what findReplaced has found.
func (s *Store) removeReplaced() error {
	for _, name := range s.replaced {
		if err := s.cfg.FS.Remove(s.cfg.file(name)); err != nil {
			return fmt.Errorf("remove segment %s, which was replaced: %w", name, err)
		}
	}
	s.replaced = nil
	return nil
}

// candidate is a segment file that the catalog does not name.
type candidate struct {
	name string
	file vfs.File
	size int64
	g    *segment // nil if it has no header of its own
	// reason says what is wrong with the file as a segment; nil if nothing is
	// or if it is certain that no record of it was ever durable.
	reason error
	kept   bool // the store has taken g over
}

func (c *candidate) close() error {
	if c.kept || c.file == nil {
		return nil
	}
	return c.file.Close()
}

// extendLines adds to each timeline the segments that follow its sealed ones,
// up to the first torn frame, and returns them. Damage ends a timeline, too, if
// damage returns nil for it, and all of it otherwise.
func (s *Store) extendLines(found []*candidate, damage func(error) error) ([]*segment, error) {
	var unsealed, keep []*segment
	for _, c := range found {
		if c.g != nil {
			unsealed = append(unsealed, c.g)
		}
	}
	ended := map[TimelineID]bool{}
	for _, c := range found {
		g := c.g
		if g == nil || ended[g.timeline] {
			continue
		}
		if next := s.tree.last[g.timeline] + 1; g.first != next {
			c.reason = &CorruptError{File: c.name, What: "segment", Wanted: fmt.Sprintf("first record at most seq %d", next), Found: fmt.Sprintf("seq %d", g.first)}
			continue
		}
		whole, err := s.scanUnsealed(g, unsealed[slices.Index(unsealed, g)+1:])
		if err != nil {
			if err := damage(err); err != nil {
				return nil, err
			}
		}
		ended[g.timeline] = !whole || err != nil
		if !g.empty() {
			s.tree.last[g.timeline] = g.last
			c.kept = true
			s.segments[g.id] = g
			keep = append(keep, g)
		}
	}
	return keep, nil
}

// findUnsealed opens the segment files that the catalog does not name, in the
// order of their ids.
func (s *Store) findUnsealed() (found []*candidate, err error) {
	names, err := s.cfg.FS.ReadDir(s.cfg.file(journalDir))
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	s.runs.find(names)
	s.findReplaced(names)
	for _, name := range names {
		id, ok := parseSegmentName(name)
		if _, sealed := s.segments[id]; !ok || sealed {
			continue // not ours to judge, or known
		}
		s.nextID = max(s.nextID, id+1)
		c := &candidate{name: segmentName(id)}
		found = append(found, c)
		if err := s.openUnsealed(c); err != nil {
			return found, err
		}
		if err := s.classify(c, id); err != nil {
			return found, err
		}
	}
	return found, nil
}

// openUnsealed opens one file for scanning. It is synced and its cached pages
// are dropped first: after a failed sync the cache may hold what the disk does
// not, and only the disk counts.
func (s *Store) openUnsealed(c *candidate) (err error) {
	if c.file, err = s.cfg.FS.Open(s.cfg.file(c.name)); err != nil {
		return fmt.Errorf("open segment %s: %w", c.name, err)
	}
	if err := (tailFile{c.file}).Sync(); err != nil {
		return fmt.Errorf("sync segment %s: %w", c.name, err)
	}
	c.file.DropCache()
	return nil
}

// classify reads a file's header and decides what the file can be.
func (s *Store) classify(c *candidate, id segmentID) (err error) {
	if c.size, err = c.file.Size(); err != nil {
		return fmt.Errorf("read size of %s: %w", c.name, err)
	}
	if c.size < blockBytes {
		return nil // a crash overtook its creation
	}
	block := make([]byte, blockBytes)
	if err := readFull(c.file, block, 0); err != nil {
		return fmt.Errorf("read header of %s: %w", c.name, err)
	}
	h, err := decodeSegmentHeader(block)
	switch {
	case errors.Is(err, ErrVersion):
		return locate(err, c.name, 0)
	case err != nil:
		c.reason = locate(err, c.name, 0) // never begun, or damaged
		return nil
	case h.volume != s.volume:
		return foreignSegment(c.name, s.volume, h.volume)
	case h.id != id || s.isLeftBehind(h, id):
		return nil // waits for reuse
	case h.bytes > c.size:
		c.reason = &CorruptError{File: c.name, What: "segment", Wanted: fmt.Sprintf("%d bytes", h.bytes), Found: fmt.Sprint(c.size)}
		return nil
	}
	// When its last record came is not known: the latest possible time keeps
	// them for the whole window.
	c.g = &segment{
		id: id, volume: s.volume, timeline: h.timeline, first: h.first, last: h.first - 1, bytes: h.bytes,
		name: c.name, file: c.file, end: blockBytes, closedAt: s.cfg.Clock.Now(),
	}
	c.g.users.Store(1)
	return nil
}

// isLeftBehind reports whether a segment's timeline was dropped, or went on
// without it after an earlier recovery.
func (s *Store) isLeftBehind(h segmentHeader, id segmentID) bool {
	if _, known := s.tree.timelines[h.timeline]; !known {
		return true
	}
	return slices.ContainsFunc(s.lineLocked(h.timeline), func(sealed *segment) bool { return sealed.id > id })
}

// checkUnused makes sure that a file which recovery is about to give up holds
// no record that was durable. After a clean Close it cannot.
func (s *Store) checkUnused(c *candidate) error {
	if c.reason == nil || s.state.CleanTip != nil {
		return nil
	}
	proof, _, err := findFrame(c.file, c.name, s.volume, blockBytes, c.size, func(r *Record, durable Seq) bool {
		last, known := s.tree.last[r.Position.Timeline]
		return known && durable > last
	})
	if err != nil {
		return err
	}
	if proof != nil {
		return fmt.Errorf("seq %d of timeline %s was durable: %w", s.tree.last[proof.Position.Timeline]+1, proof.Position.Timeline, c.reason)
	}
	return nil
}

// scanUnsealed reads a segment up to its last whole frame. whole is false
// when a frame behind it was torn, after which the timeline cannot go on.
func (s *Store) scanUnsealed(g *segment, later []*segment) (whole bool, err error) {
	scanner, size := newFrameScanner(g, g.bytes-blockBytes), s.sizeBefore(g)
	for {
		f, err := scanner.scan()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if errors.Is(err, ErrCorrupt) {
			if hasSuccessor(g, scanner.next, later) {
				return true, nil // the segment ends here; what follows is its unused rest
			}
			proof, scanErr := findProof(g, scanner.off, scanner.next, later)
			if scanErr != nil {
				return false, scanErr
			}
			if proof != nil || s.floor(g.timeline) >= scanner.next {
				return false, fmt.Errorf("seq %d of timeline %s was durable: %w", scanner.next, g.timeline, err)
			}
			return false, nil
		}
		if err != nil {
			return false, err
		}
		g.note(&f.Record, f.off)
		if size = g.noteSize(&f.Record, size); size > s.state.SizeBytes {
			return false, &CorruptError{File: g.name, Offset: f.off, What: "volume size", Wanted: fmt.Sprintf("at most %d, the catalog's", s.state.SizeBytes), Found: fmt.Sprint(size)}
		}
		if f.Kind == KindCheckpoint {
			c, err := checkpointOf(&f.Record)
			if err != nil {
				return false, err
			}
			g.noteCheckpoint(c, len(f.Payload))
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
		f, err := g.makeFooter(g.snapshot())
		if err != nil {
			return err
		}
		if err := g.writeFooter(f); err != nil {
			return mapFull(err)
		}
		if err := s.syncSegment(g); err != nil {
			return err
		}
	}
	if len(keep) == 0 {
		return nil
	}
	if err := s.cfg.FS.SyncDir(s.cfg.file(journalDir)); err != nil {
		return fmt.Errorf("sync journal directory: %w", err)
	}
	err := s.commit(func(tx kv.Tx) error {
		for _, g := range keep {
			if err := s.cat.saveSegment(tx, g.id, g.entry(g.snapshot())); err != nil {
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
