package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// DrainPlan is what draining a store takes and gives up.
type DrainPlan struct {
	Tip, Horizon Position
	SizeBytes    int64
	JournalBytes int64 // room that the journal takes
	Checkpoints  int   // of the live timeline, all of which go
	// Oldest and Newest are the times of the first and the last of them.
	Oldest, Newest time.Time
	// Pins and Timelines are what others rely on: it goes only if they are
	// forced. The timelines are those with records that the tip does not have.
	Pins      map[string]Position
	Timelines []Timeline
}

// Held reports whether somebody relies on what would be given up.
func (p *DrainPlan) Held() bool { return len(p.Pins) > 0 || len(p.Timelines) > 0 }

// DrainPlan tells what Drain would do to the store.
func (r *ReadOnly) DrainPlan() DrainPlan {
	s := r.in.s
	s.mu.RLock()
	plan := DrainPlan{
		Tip: s.tipLocked(), Horizon: s.state.Horizon, SizeBytes: s.state.SizeBytes, JournalBytes: s.journalBytesLocked(),
		Pins: maps.Clone(s.pins), Timelines: s.lostLinesLocked(),
	}
	s.mu.RUnlock()
	points := s.Checkpoints()
	if plan.Checkpoints = len(points); plan.Checkpoints > 0 {
		plan.Oldest, plan.Newest = points[0].Time, points[len(points)-1].Time
	}
	return plan
}

// lostLinesLocked finds the timelines that have records which neither lead to the
// tip nor come from it. mu must be held.
func (s *Store) lostLinesLocked() []Timeline {
	tip := s.tipLocked()
	path, err := s.tree.path(s.state.Base, tip)
	if err != nil {
		return nil // Open refuses such a store
	}
	var lost []Timeline
	for _, line := range s.tree.sorted() {
		own := line.Parent.Seq // the newest of its records that the tip has
		for _, run := range path {
			if run.Timeline == line.ID {
				own = run.Last
			}
		}
		last := s.tree.last[line.ID]
		if _, err := s.tree.path(tip, Position{line.ID, last}); last > own && err != nil {
			lost = append(lost, line)
		}
	}
	return lost
}

// Drain moves all records of the live timeline into the base, and gives up the
// past: base.img is then the volume as it is, as long as it is, durable on return, and
// the journal is empty. The tip stays what it is, and the store can be used on.
//
// ErrHeld if a view, a reader or, without force, a pin or a timeline of its own
// needs what would be given up; with force, pins are dropped. ErrCorrupt where a record
// is damaged, which is found out before anything is given up. ErrFull, ErrPoisoned, ctx's
// error: what was moved until then stays moved, and Drain can be called again. Appends wait meanwhile.
func (s *Store) Drain(ctx context.Context, force bool) error {
	defer s.impatience()() // at full speed
	s.maintainMu.Lock()
	defer s.maintainMu.Unlock()
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if err := s.drain(ctx, force); err != nil {
		return fmt.Errorf("drain volume %s: %w", s.volume, err)
	}
	return nil
}

func (s *Store) drain(ctx context.Context, force bool) error {
	if err := s.checkDrain(force); err != nil {
		return err
	}
	s.pressed.Store(true) // all that is sealed is due
	defer func() {
		s.pressed.Store(false)
		s.batchLimit = 0
	}()
	if err := s.syncJournal(); err != nil {
		return err
	}
	s.retireActive()
	if err := s.sealPending(); err != nil {
		return err
	}
	if err := s.checkWhole(ctx); err != nil {
		return err
	}
	for name := range s.Pins() {
		if err := s.Unpin(name); err != nil {
			return err
		}
	}
	for {
		// The image is what the caller is after: no damaged one is begun.
		more, err := s.destageTightly(ctx, true)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if err := s.leavePast(); err != nil {
		return err
	}
	s.pruneRuns()
	s.runs.removeLeftovers()
	return errors.Join(s.trimBase(), s.removeFree())
}

// checkWhole finds out whether all that is to be moved into the base is whole, before
// anything is given up for it: the bytes that are damaged may be sound at a point that a
// drain which ends in the middle has given up by then.
func (s *Store) checkWhole(ctx context.Context) error {
	s.mu.RLock()
	path, err := s.tree.path(s.state.Base, s.tipLocked())
	parts := s.partsLocked(path)
	for _, part := range parts {
		part.users.Add(1)
	}
	s.mu.RUnlock()
	defer func() {
		for _, part := range parts {
			s.releaseSegment(part.segment)
		}
	}()
	if err != nil {
		return err
	}
	pace := s.newPacer()
	for batch := range slices.Chunk(parts, maxBatchSegments) {
		merged, err := tableOf(batch)
		if err == nil {
			err = s.checkWanted(ctx, batch, merged, pace)
		}
		if err != nil {
			return s.asDamage(err)
		}
	}
	return nil
}

// checkDrain finds out who needs what Drain gives up.
func (s *Store) checkDrain(force bool) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return err
	}
	if lost := s.lostLinesLocked(); !force && len(s.pins)+len(lost) > 0 {
		return fmt.Errorf("%d pins and %d timelines: %w", len(s.pins), len(lost), ErrHeld)
	}
	tip := s.tipLocked()
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	for h := range s.holds {
		if h.at != tip {
			return fmt.Errorf("a view or reader at %s: %w", h.at, ErrHeld)
		}
	}
	return nil
}

// leavePast moves the base to the tip, between which there is no record left, and
// lets go of the timelines that do not come from there. ErrHeld where somebody has
// pinned or opened a position of these since checkDrain: nobody can from when the horizon is
// at the tip, which is before they are dropped, and durable with that.
func (s *Store) leavePast() error {
	s.mu.RLock()
	tip := s.tipLocked()
	path, err := s.tree.path(s.state.Base, tip)
	rest := s.partsLocked(path)
	lines, _ := s.abandonedLocked(tip)
	horizon := s.state.Horizon
	there := s.state.Base == tip && horizon == tip && len(lines) == 0
	s.mu.RUnlock()
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return fmt.Errorf("%s is not in the base: %w", rest[0].name, ErrHeld)
	case there:
		return nil
	}
	err = s.dropBatch(nil, tip, nil, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if horizon != tip && s.isHeldLocked(tip) {
			return fmt.Errorf("a pin, view or reader of what is left behind, made meanwhile: %w", ErrHeld)
		}
		s.state.Horizon = tip
		return nil
	})
	if err != nil {
		s.mu.Lock()
		s.state.Horizon = horizon
		s.mu.Unlock()
	}
	return err
}

// trimBase makes the base exactly as long as the volume, which an interrupted
// resize may have left longer.
func (s *Store) trimBase() error {
	size, err := s.base.Size()
	if err == nil && size != s.SizeBytes() {
		if err = s.base.Truncate(s.SizeBytes()); err == nil {
			err = s.syncBase()
		}
	}
	if err != nil {
		return fmt.Errorf("trim %s: %w", baseFile, err)
	}
	return nil
}

// removeFree removes the segment files that no record is in any more.
func (s *Store) removeFree() error {
	s.dropMu.Lock()
	defer s.dropMu.Unlock()
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if err := s.dropReady(); err != nil {
		return err
	}
	s.free = nil // found again below, with those whose removal failed before
	dir := s.cfg.file(journalDir)
	names, err := s.cfg.FS.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list journal: %w", err)
	}
	for _, name := range names {
		id, ok := parseSegmentName(name)
		s.mu.RLock()
		_, used := s.segments[id]
		s.mu.RUnlock()
		if !ok || used {
			continue
		}
		if err := s.cfg.FS.Remove(s.cfg.file(segmentName(id))); err != nil {
			return fmt.Errorf("remove unused segment %s: %w", name, err)
		}
	}
	if err := s.cfg.FS.SyncDir(dir); err != nil {
		return fmt.Errorf("sync journal directory: %w", err)
	}
	return nil
}
