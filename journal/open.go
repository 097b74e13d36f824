package journal

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// Open opens the store in cfg.Dir and recovers it if it was not closed
// cleanly: everything that was durable is there, and of the rest the longest
// prefix that is whole. On return the recovered tip is durable. Errors:
// ErrNotStore, ErrInUse, ErrVersion, ErrNoJournal and ErrForeign where the
// journal's directory is not there or another store's, ErrOverlay and ErrForeign
// where Config.Origin is missing or another one's, and ErrCorrupt where
// bytes that were durable are damaged; nothing is then changed.
func Open(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	id, err := readIdentity(&cfg)
	if err != nil {
		return nil, err
	}
	if err := id.matchOrigin(cfg.Origin); err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	s := &Store{
		cfg: cfg, volume: id.Volume,
		segments: map[segmentID]*segment{}, holds: map[*hold]struct{}{}, named: map[string]namedHold{},
		changed: make(chan struct{}), tailLost: make(chan struct{}), wake: make(chan struct{}, 1), wakeSupply: make(chan struct{}, 1), wakeSeal: make(chan struct{}, 1), hurry: make(chan struct{}, 1),
		wakeThin: make(chan struct{}, 1), spared: map[*segment]time.Duration{}, sparedForPins: map[*segment]pinSpare{}, opened: cfg.Clock.Now(),
		headers: make([]byte, 0, MaxBatch*frameHeaderBytes), wakeRuns: make(chan struct{}, 1),
		repairs: repairs{asked: map[damagePlace]bool{}, about: map[RepairQuestion]damageRange{}, wanted: make(chan struct{}, 1), turn: make(chan struct{})},
	}
	s.runs = newRunSet(&s.cfg, s.volume, cfg.IndexMemory/8)
	s.noteStreaming()
	s.frames, s.parts = newAgedCache[frameList](cfg.IndexMemory/16), newAgedCache[*recordParts](cfg.IndexMemory/16)
	if err := s.open(id); err != nil {
		return nil, fmt.Errorf("open store of volume %s: %w", id.Volume, errors.Join(err, s.release(s.segments)))
	}
	return s, nil
}

func (s *Store) open(id identity) error {
	lock, err := lockStore(&s.cfg)
	if err != nil {
		return err
	}
	s.lock = lock
	journal, err := lockJournal(&s.cfg, id)
	if err != nil {
		return err
	}
	s.lock = bothLocks{store: lock, journal: journal}
	// The identity is the last name that making a store makes durable. Whoever did that may
	// have been killed before it was, and then all that is flushed would rest on it.
	if err := s.cfg.FS.SyncDir(s.cfg.Dir); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if s.cat, err = openCatalog(&s.cfg); err != nil {
		return err
	}
	var damaged error
	content, err := s.cat.load(func(err error) bool {
		damaged = err
		return false
	})
	if err = errors.Join(err, damaged); err != nil {
		return err
	}
	if err := s.openBase(content.state.SizeBytes); err != nil {
		return err
	}
	if err := s.openSums(&content.state); err != nil {
		return err
	}
	s.state, s.pins, s.tree = content.state, content.pins, newTree(content.timelines)
	s.tree.last[s.state.Base.Timeline] = max(s.state.Base.Seq, s.tree.last[s.state.Base.Timeline])
	s.size.Store(s.state.SizeBytes)
	s.scrub.state = content.scrub
	s.scrub.pass.Store(content.scrub.Pass)
	s.state.assumeBaseBytes()
	if err := s.openSealed(content.segments); err != nil {
		return err
	}
	if err := s.recover(id); err != nil {
		return err
	}
	if err := s.checkPaths(); err != nil {
		return err
	}
	if err := s.makeSums(); err != nil {
		return err
	}
	s.pruneRuns()
	s.warnOfSmallDisk()
	s.recallDamage(content.damage)
	return s.buildLive()
}

// checkPaths makes sure that the horizon follows the base and the live view
// the horizon, on which everything else relies.
func (s *Store) checkPaths() error {
	for _, p := range [][2]Position{{s.state.Base, s.state.Horizon}, {s.state.Horizon, s.tipLocked()}} {
		if _, err := s.tree.path(p[0], p[1]); err != nil {
			return &CorruptError{File: catalogFile, What: "state", Wanted: fmt.Sprintf("%s on the path to %s", p[0], p[1]), Found: err.Error()}
		}
	}
	return nil
}

// openBase opens the base image, which must be as long as the volume.
func (s *Store) openBase(sizeBytes int64) error {
	bad := func(found string) error {
		return &CorruptError{File: baseFile, What: "base image", Wanted: fmt.Sprintf("at least %d bytes", sizeBytes), Found: found}
	}
	base, err := s.cfg.FS.Open(s.cfg.file(baseFile))
	if errors.Is(err, vfs.ErrNotExist) {
		return bad("no file")
	}
	if err != nil {
		return fmt.Errorf("open base image: %w", err)
	}
	s.base = base
	size, err := base.Size()
	if err != nil {
		return fmt.Errorf("read size of %s: %w", baseFile, err)
	}
	if size < sizeBytes {
		return bad(fmt.Sprint(size))
	}
	return nil
}

// openSums opens the checksums of the base. There may be none yet if none is
// relied on.
func (s *Store) openSums(state *catalogState) error {
	s.summed.Store(state.Summed)
	file, err := s.cfg.FS.Open(s.cfg.file(baseSumsFile))
	if errors.Is(err, vfs.ErrNotExist) && state.Summed == 0 {
		return nil
	}
	return s.checkSums(file, err, state)
}

// checkSums takes over the file of the checksums, if it could be opened.
func (s *Store) checkSums(file vfs.File, err error, state *catalogState) error {
	bad := func(found string) error {
		return &CorruptError{File: baseSumsFile, What: "checksums of the base", Wanted: fmt.Sprintf("at least %d bytes", sumOffset(state.Summed)), Found: found}
	}
	if errors.Is(err, vfs.ErrNotExist) {
		return bad("no file")
	}
	if err != nil {
		return fmt.Errorf("open checksums of the base: %w", err)
	}
	s.sums = newBaseSums(file, s.volume)
	size, err := file.Size()
	if err != nil {
		return fmt.Errorf("read size of %s: %w", baseSumsFile, err)
	}
	if size < sumOffset(state.Summed) {
		return bad(fmt.Sprint(size))
	}
	return nil
}

// makeSums makes the file of the checksums in a store of an older version, with
// room for all that will come; durable on return.
func (s *Store) makeSums() error {
	if s.summed.Load() > 0 {
		return nil
	}
	var err error
	if s.sums.file == nil {
		var file vfs.File
		if file, err = s.cfg.FS.Create(s.cfg.file(baseSumsFile)); err == nil {
			s.sums = newBaseSums(file, s.volume)
		}
	}
	if err == nil {
		err = s.sums.file.Truncate(sumOffset(s.SizeBytes()))
	}
	if err == nil {
		err = s.sums.file.Sync()
	}
	if err == nil {
		err = s.cfg.FS.SyncDir(s.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("make checksums of the base: %w", mapFull(err))
	}
	return nil
}

// openReaders is how many segments are checked at once, because each is three
// reads from all over the disk.
const openReaders = 8

// openSealed opens the segments that the catalog knows and checks that they
// follow one another without a gap on each timeline.
func (s *Store) openSealed(entries map[segmentID]segmentEntry) error {
	ids := slices.Sorted(maps.Keys(entries))
	for _, id := range ids {
		e := entries[id]
		g := s.sealedSegment(id, &e)
		g.users.Store(1)
		if err := s.openSegmentFile(g, s.cfg.FS.Open); err != nil {
			return err
		}
		s.segments[id] = g
	}
	failed := make([]error, len(ids))
	var readers errgroup.Group
	readers.SetLimit(openReaders)
	for i, id := range ids {
		readers.Go(func() error {
			failed[i] = s.segments[id].checkSealed()
			return failed[i]
		})
	}
	_ = readers.Wait() // the error that counts is that of the oldest segment
	for i, id := range ids {
		if failed[i] != nil {
			return failed[i]
		}
		if err := s.extendLine(s.segments[id]); err != nil {
			return err
		}
		s.nextID = max(s.nextID, id+1)
	}
	s.nextID = max(s.nextID, 1)
	return nil
}

// sealedSegment is a segment as the catalog knows it.
func (s *Store) sealedSegment(id segmentID, e *segmentEntry) *segment {
	return &segment{
		id: id, volume: s.volume, timeline: e.Timeline, first: e.First, last: e.Last, end: e.EndBytes,
		bytes: e.Bytes, name: fileOf(id, e.Generation), sealed: true, closedAt: e.ClosedAt, sizes: e.Sizes,
		generation: e.Generation, thinned: e.Thinned,
	}
}

// checkSealed reads and verifies all of a segment that the catalog knows but
// its records, and takes the checkpoints from its footer.
func (g *segment) checkSealed() error {
	if err := g.checkHeader(); err != nil {
		return err
	}
	t, err := g.readTrailer()
	if err != nil {
		return err
	}
	f, err := g.readFooterBody(&t)
	if err != nil {
		return err
	}
	if f.last != g.last || f.end != g.end {
		return &CorruptError{File: g.name, Offset: g.bytes - blockBytes, What: "segment trailer",
			Wanted: fmt.Sprintf("last %d end %d", g.last, g.end), Found: fmt.Sprintf("last %d end %d", f.last, f.end)}
	}
	g.checkpoints, g.extents, g.footerCRC = f.checkpoints, len(f.extents), t.bodyCRC
	g.times = timesOf(g.checkpoints, g.thinned)
	return nil
}

// openSegmentFile opens the file of a segment that the catalog names.
func (s *Store) openSegmentFile(g *segment, open func(name string) (vfs.File, error)) (err error) {
	g.file, err = open(s.cfg.file(g.name))
	if errors.Is(err, vfs.ErrNotExist) {
		return &CorruptError{File: g.name, What: "segment", Wanted: "a file", Found: "none"}
	}
	if err != nil {
		return fmt.Errorf("open segment %s: %w", g.name, err)
	}
	size, err := g.file.Size()
	if err == nil && size < g.bytes {
		err = &CorruptError{File: g.name, What: "segment", Wanted: fmt.Sprintf("%d bytes", g.bytes), Found: fmt.Sprint(size)}
	}
	if err != nil {
		return errors.Join(err, g.file.Close())
	}
	return nil
}

// extendLine adds a sealed segment to its timeline. The oldest one kept of the
// base's timeline may begin before the base.
func (s *Store) extendLine(g *segment) error {
	if _, ok := s.tree.timelines[g.timeline]; !ok {
		return &CorruptError{File: catalogFile, What: "timelines", Wanted: "timeline " + g.timeline.String() + " of " + g.name, Found: "none"}
	}
	last, base := s.tree.last[g.timeline], s.state.Base
	reachesBase := g.timeline == base.Timeline && last == base.Seq && g.first <= base.Seq && g.last >= base.Seq
	if g.first != last+1 && !reachesBase {
		return &CorruptError{File: catalogFile, What: "segments of timeline " + g.timeline.String(),
			Wanted: fmt.Sprintf("seq %d", last+1), Found: fmt.Sprintf("seq %d in %s", g.first, g.name)}
	}
	s.tree.last[g.timeline] = g.last
	return nil
}

// lineLocked returns the segments of a timeline, oldest first. mu must be
// held.
func (s *Store) lineLocked(id TimelineID) []*segment {
	var line []*segment
	for _, g := range s.segments {
		if g.timeline == id {
			line = append(line, g)
		}
	}
	slices.SortFunc(line, func(a, b *segment) int { return cmp.Compare(a.id, b.id) })
	return line
}

// buildLive makes the index of the live view from the segments on its path.
func (s *Store) buildLive() error {
	tip := s.tipLocked()
	index, size, err := s.indexAt(tip)
	if err != nil {
		return err
	}
	s.index, s.tipBytes = index, size
	s.durable = tip
	s.durableSeq.Store(uint64(tip.Seq))
	return nil
}
