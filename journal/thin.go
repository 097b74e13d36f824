package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

var (
	// errThinLater: a rewrite was given up for what may be otherwise soon.
	errThinLater = errors.New("thinned later")
	// errNotWorth: a rewrite would free too little.
	errNotWorth = errors.New("nothing to thin")
)

// thinDue rewrites segments until nothing is due. A lack of space and a rewrite
// that something came in the way of are logged and tried again by a later call,
// because nothing depends on them. Where a record that is kept is damaged, the
// segments stay as they are, the damage is told like that which a read meets (see
// Damaged), and the next job goes on. Errors: ErrPoisoned, that of ctx, an I/O
// error of a write.
func (s *Store) thinDue(ctx context.Context) error {
	s.thinMu.Lock()
	defer s.thinMu.Unlock()
	s.endHolds()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		job := s.nextThinJob()
		if job == nil {
			return nil
		}
		err := s.asDamage(s.thin(ctx, job))
		s.noteThinning(0, 0)
		s.releaseParts(job.parts)
		switch {
		case err == nil:
			s.thinTrouble = ""
		case errors.Is(err, errNotWorth):
			s.spareFromThinning(job)
		case errors.Is(err, ErrCorrupt):
			s.complainOfThinning(s.noteDamage(err))
			s.spareFromThinning(job)
		case errors.Is(err, errThinLater), errors.Is(err, ErrFull):
			s.complainOfThinning(err)
			return nil
		case errors.Is(err, ErrClosed):
			return nil // Close is waiting
		default:
			return fmt.Errorf("thin history of timeline %s: %w", job.timeline, err)
		}
	}
}

// complainOfThinning logs an error unless it was the last one logged.
func (s *Store) complainOfThinning(err error) {
	if text := err.Error(); text != s.thinTrouble {
		s.thinTrouble = text
		s.cfg.Log.Warn("history cannot be thinned now", "volume", s.volume, "error", err)
	}
}

// spareFromThinning leaves a job's segments as they are until the next Open, or until a
// coarser tier has them.
func (s *Store) spareFromThinning(job *thinJob) {
	if job.interval == pinsOnly {
		s.spareForPins(job)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.thinned.Spared++
	for _, part := range job.parts {
		if part.last <= job.upTo() {
			s.spared[part.segment] = job.interval
		}
	}
}

// thin carries out a job. On an error the store is as it was.
func (s *Store) thin(ctx context.Context, job *thinJob) error {
	survivors, err := s.survivors(ctx, job)
	if err != nil {
		return err
	}
	outputs, err := s.layOut(job, survivors)
	if err != nil {
		return err
	}
	if err := s.writeOutputs(ctx, job, outputs, survivors); err != nil {
		return err
	}
	if err := s.replaceThinned(job, outputs); err != nil {
		if !errors.Is(err, ErrPoisoned) { // the catalog may name them else
			s.discardOutputs(outputs)
		}
		return err
	}
	s.dropStaleRuns(job)
	wake(s.wakeRuns)
	if err := s.refreshLive(); err != nil {
		return fmt.Errorf("let go of what was thinned: %w", err)
	}
	return nil
}

// noteThinning enters how far a rewrite is into the figures.
func (s *Store) noteThinning(bytes, done int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.thinned.UnderwayBytes, s.thinned.DoneBytes = bytes, done
}

// replaceThinned puts the new segments in the place of a job's parts: in the
// catalog, which is the moment from which on a crash leaves the new ones, and
// in memory. errThinLater if somebody needs by now what the job drops.
func (s *Store) replaceThinned(job *thinJob, outputs []*thinOutput) error {
	s.maintainMu.Lock()
	defer s.maintainMu.Unlock()
	s.refreshMu.Lock()
	defer s.refreshMu.Unlock()
	s.mu.Lock()
	err := s.stillValidLocked(job)
	if err == nil {
		s.thinning = job // what it drops cannot be opened from here on
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	err = s.changeState(func(*catalogState) {}, func(tx kv.Tx) error {
		for i := range job.parts {
			if err := s.cat.dropSegment(tx, job.parts[i].id); err != nil {
				return err
			}
		}
		for _, out := range outputs {
			if err := s.cat.saveSegment(tx, out.id, out.g.entry(out.g.snapshot())); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	if err != nil {
		s.mu.Lock()
		s.thinning = nil
		s.mu.Unlock()
		return fmt.Errorf("enter thinned segments into the catalog: %w", err)
	}
	s.moveLive(job, outputs)
	for i := range job.parts {
		s.releaseSegment(job.parts[i].segment) // the store's own use of it
	}
	return nil
}

// stillValidLocked checks what may have changed since a job was chosen.
func (s *Store) stillValidLocked(job *thinJob) error {
	if err := s.usable(); err != nil {
		return err
	}
	for i := range job.parts {
		if s.segments[job.parts[i].id] != job.parts[i].segment {
			return errThinLater // destaged, or its timeline dropped
		}
	}
	if s.state.Horizon != s.state.Base || s.straddlesBase(job.parts[0].segment) || s.isReadLocked(job) {
		return errThinLater
	}
	for _, seq := range s.anchorsLocked(job.timeline) {
		if job.drops(Position{job.timeline, seq}) {
			return errThinLater
		}
	}
	now := thinJob{bounds: s.index.bounds()}
	for i := 1; i < len(job.parts); i++ {
		if low, high := job.parts[i-1].id, job.parts[i].id; now.crosses(low, high) && !job.crosses(low, high) {
			return errThinLater
		}
	}
	return nil
}

// moveLive makes the live index lead to the new segments, a few extents at a
// time, and then the store know them instead of the old ones. As old and new ones
// share their ids, the new ones have another one, out of any order, for a
// moment. Views go on with the segments that they hold, and so does the live
// index's stack until it is made anew. maintainMu and refreshMu must be held.
func (s *Store) moveLive(job *thinJob, outputs []*thinOutput) {
	s.mu.Lock()
	s.moved = map[segmentID]*segment{}
	for i, out := range outputs {
		s.moved[aliasOf(i)] = out.g
	}
	upTo := s.liveUpToLocked(job)
	s.mu.Unlock()
	for i, out := range slices.Backward(outputs) { // the newest first, of zeroes that were in one segment
		s.relocate(out.moves, upTo, func(m *thinMove) (from, to location) { return m.from, makeLocation(aliasOf(i), m.to.fileOffset()) })
	}
	s.mu.Lock()
	s.enterThinnedLocked(job, outputs)
	s.mu.Unlock()
	for i, out := range outputs {
		s.relocate(out.moves, upTo, func(m *thinMove) (from, to location) { return makeLocation(aliasOf(i), m.to.fileOffset()), m.to })
		out.moves = nil
	}
	s.mu.Lock()
	s.moved = nil
	s.mu.Unlock()
}

// aliasOf is the id of a rewrite's i-th output for the time of moveLive; the
// store never comes so far.
func aliasOf(i int) segmentID { return maxSegmentID - segmentID(i) }

// liveUpToLocked is the last seq of a job that the live index may lead to in
// memory; 0 if there is none.
func (s *Store) liveUpToLocked(job *thinJob) Seq {
	path, err := s.tree.path(s.state.Base, s.tipLocked())
	if err != nil || job.parts[len(job.parts)-1].id <= s.index.stackUpTo {
		return 0
	}
	for _, run := range path {
		if run.Timeline == job.timeline {
			return run.Last
		}
	}
	return 0
}

// enterThinnedLocked makes the new segments those of the store.
func (s *Store) enterThinnedLocked(job *thinJob, outputs []*thinOutput) {
	for i := range job.parts {
		g := job.parts[i].segment
		delete(s.segments, g.id)
		delete(s.spared, g)
		delete(s.sparedForPins, g)
		s.dropUnsyncedLocked(g) // what is sealed is durable
		s.damage.healed(g.name, 0, g.bytes)
		s.thinned.ReadBytes += g.bytes
	}
	for _, out := range outputs {
		s.segments[out.id] = out.g
		s.thinned.WrittenBytes += out.g.bytes
	}
	s.thinned.Rewrites++
	s.thinning = nil
}

func (s *Store) dropUnsyncedLocked(g *segment) {
	s.unsynced = slices.DeleteFunc(s.unsynced, func(u *segment) bool { return u == g })
}

// relocate makes what the live index has in memory of the records up to a seq
// lead from one place to another.
func (s *Store) relocate(moves []thinMove, upTo Seq, way func(*thinMove) (from, to location)) {
	n := len(moves)
	for n > 0 && moves[n-1].seq > upTo {
		n--
	}
	for moves = moves[:n]; len(moves) > 0; {
		chunk := moves[max(0, len(moves)-forgetChunk):]
		moves = moves[:len(moves)-len(chunk)]
		s.mu.Lock()
		for i := len(chunk) - 1; i >= 0; i-- {
			from, to := way(&chunk[i])
			s.index.relocate(chunk[i].start, chunk[i].end, from, to)
		}
		s.mu.Unlock()
	}
}

// dropStaleRuns removes the index runs that were made of segments that are no
// more. Who uses one goes on with the open file.
func (s *Store) dropStaleRuns(job *thinJob) {
	low, high := job.parts[0].id, job.parts[len(job.parts)-1].id
	s.runs.prune(func(key runKey) bool { return key.end() <= low || key.start > high })
}
