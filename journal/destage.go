package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lockstep-csi/lockstep/internal/kv"
)

// Destage moves the records of the oldest segments into the base image, in
// steps that each leave a store whose every position from the horizon
// on reads right:
//
//  1. the horizon moves to the end of the batch, in the catalog. From here on
//     no position inside the batch can be opened, so that the base may hold a
//     mixture of them;
//  2. the newest version of what the batch holds is read, found to be whole, and
//     written to the base with its checksums, and both are synced;
//  3. the base's position moves to the end of the batch and the segments are
//     dropped, in the catalog; the live index forgets what the base now has.
//
// A crash between 1 and 3, or a lack of room, repeats step 2: with the same bytes,
// or in pieces, each of which is a batch whose step 1 is done and writes what is not the
// newest. So the live index leads to the journal until the catalog has step 3. Damage in what step 2
// reads ends it there: the batch is tried again, from its beginning, but then nothing
// is written before all of it was found whole, or it would be written for nothing
// again and again.

// maxBatchSegments bounds one batch and with it the time between two looks at
// ctx and the memory of the merged table. A batch is longer where thinned segments
// end between kept checkpoints: then it goes on to the next one.
const maxBatchSegments = 8

const destageBufferBytes = 1 << 20

// destageBatch moves one batch; more is false when nothing is due. With verify
// nothing is written before all that is wanted was found whole.
func (s *Store) destageBatch(ctx context.Context, verify bool) (more bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	parts, to := s.chooseBatch()
	if len(parts) == 0 {
		return false, nil
	}
	defer func() {
		for _, part := range parts {
			s.releaseSegment(part.segment)
		}
	}()
	if err := s.syncIfBehind(to); err != nil {
		return false, err
	}
	merged, moved, err := s.moveBatch(ctx, parts, to, verify || s.stuck)
	err = s.asDamage(err)
	s.stuck = errors.Is(err, ErrCorrupt)
	if err != nil {
		return false, fmt.Errorf("destage up to %s: %w", to, err)
	}
	if !moved {
		return false, nil
	}
	if err := s.dropBatch(parts, to, merged, nil); err != nil {
		return false, err
	}
	s.pruneRuns()
	if err := s.refreshLive(); err != nil {
		return false, fmt.Errorf("let go of what was destaged up to %s: %w", to, err)
	}
	return true, nil
}

// chooseBatch picks sealed segments from the base on that are over the budget
// or out of the window, and holds them. A batch that a crash interrupted comes
// first, and where room is tight a segment of it at a time: between base and
// horizon the base holds a mixture anyway. It ends at the horizon, also in the middle of a segment. Where damage stopped the last batch, it takes all that may go: a record
// behind that batch may hide what is damaged. maintainMu must be held.
func (s *Store) chooseBatch() ([]pathPart, Position) {
	if s.isOverlay() { // whose base could not tell zeroes from what is its origin's
		return nil, Position{}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	path, err := s.tree.path(s.state.Base, s.tipLocked())
	if err != nil {
		return nil, Position{}
	}
	all := s.partsLocked(path)
	total, short := s.historyBytesLocked(), s.roomShort.Load()
	interrupted, limit := s.state.Horizon != s.state.Base, maxBatchSegments
	if s.batchLimit > 0 {
		limit = s.batchLimit
	}
	ages := s.ageingLocked()
	expiry := ages.cutoff(s.cfg.Window)
	var batch []pathPart
	var to Position
	exact := 0 // parts of the batch behind which the horizon can be
	newest := time.Time{}
	for _, part := range all {
		end := Position{part.timeline, part.upTo}
		if c := part.newestPoint(); c != nil {
			newest = c.Time
		}
		due := s.pressed.Load() || short > 0 || s.cfg.JournalBytes > 0 && total > s.cfg.JournalBytes || s.cfg.Window > 0 && part.writtenBy(newest).Before(expiry) || part.thinned == pinsOnly
		must := interrupted && path.Contains(s.state.Horizon) && !s.passesLocked(end, s.state.Horizon)
		more := due && (s.stuck || !interrupted && len(batch) < limit)
		may := (more || exact < len(batch)) && !s.isHeldLocked(end)
		cut := interrupted && !may && part.passes(s.state.Horizon)
		if cut {
			part.upTo, end, must = s.state.Horizon.Seq, s.state.Horizon, true
		}
		if !part.sealed || !must && !may || must && s.isTight() && len(batch) == limit {
			break
		}
		batch = append(batch, part)
		total, short = total-part.historyBytes(), short-part.bytes
		switch {
		case must && s.isTight():
			exact, to = len(batch), end // before the horizon, perhaps
		case must:
			exact, to = len(batch), s.state.Horizon
		case part.endsExactly():
			exact, to = len(batch), end
		}
		if cut {
			break
		}
	}
	batch = batch[:exact]
	for _, part := range batch {
		part.users.Add(1)
	}
	return batch, to
}

// passes reports whether a position is in the middle of a part. The horizon is, in an
// interrupted batch that ended where a rewind had begun, once that is undone.
func (p *pathPart) passes(at Position) bool {
	return p.timeline == at.Timeline && p.first <= at.Seq && at.Seq < p.upTo
}

// newestPoint is the last checkpoint of a part; nil if there is none.
func (p *pathPart) newestPoint() *Checkpoint {
	for i, c := range slices.Backward(p.checkpoints) {
		if c.Position.Seq <= p.upTo {
			return &p.checkpoints[i]
		}
	}
	return nil
}

// writtenBy is when the last record of a part was written, or nearly; newest is the time of the
// last checkpoint there or before. It is no earlier than that, whatever the clock of this store shows:
// that may be another one than that of checkpoints, and behind, as a replica's is, or may have been set
// back. Where the path leaves a segment at a checkpoint, what came later in it tells nothing.
func (p *pathPart) writtenBy(newest time.Time) time.Time {
	if c := p.newestPoint(); p.upTo < p.last && c != nil && c.Position.Seq == p.upTo {
		return c.Time
	}
	return later(p.closedAt, newest)
}

// endsExactly reports whether the state behind a part can be had: a segment
// that was thinned can end between two kept checkpoints.
func (p *pathPart) endsExactly() bool {
	n := len(p.checkpoints)
	return p.thinned == 0 || p.upTo < p.last || n > 0 && p.checkpoints[n-1].Position.Seq == p.last
}

// passesLocked reports whether a lies behind b, both on the active path.
func (s *Store) passesLocked(a, b Position) bool {
	path, err := s.tree.path(s.state.Base, b)
	return err != nil || !path.Contains(a)
}

// isHeldLocked reports whether a view, pin or reader needs a position that the
// horizon at to would no longer lead to.
func (s *Store) isHeldLocked(to Position) bool {
	blocked := func(at Position) bool {
		_, err := s.tree.path(to, at)
		return err != nil
	}
	for _, at := range s.pins {
		if blocked(s.beforeRecordLocked(at)) {
			return true
		}
	}
	strained := s.strainedLocked()
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	for h := range s.holds {
		if h.point && s.yielding {
			continue
		}
		at := h.at
		if h.record {
			at = s.beforeRecordLocked(at)
		}
		if blocked(at) && !(h.yields && strained) {
			return true
		}
	}
	return false
}

// beforeRecordLocked is where the horizon has to stay for a checkpoint at a position to be
// listed: behind its record that goes with its segment, and with it what says that there is
// a checkpoint. Where a timeline begins there is none. mu must be held.
func (s *Store) beforeRecordLocked(at Position) Position {
	if line, ok := s.tree.timelines[at.Timeline]; ok && at.Seq > line.Parent.Seq {
		at.Seq--
	}
	return at
}

// recordGoesLocked reports whether the batch under way, or the one that a crash has interrupted,
// takes the record of a checkpoint at a position with it: the horizon is there, and can be opened, but
// no list has the checkpoint any more, and it is too late to hold it. mu must be held.
func (s *Store) recordGoesLocked(at Position) bool {
	if at != s.state.Horizon || at == s.state.Base {
		return false
	}
	path, err := s.tree.path(s.state.Base, s.tipLocked())
	if err != nil {
		return false
	}
	for _, part := range s.partsLocked(path) {
		if part.timeline == at.Timeline && part.upTo == at.Seq {
			c := part.newestPoint()
			return c != nil && c.Position == at
		}
	}
	return false
}

// strainedLocked reports whether readers must give way: space has run out, or
// the journal is twice as large as it should be.
func (s *Store) strainedLocked() bool {
	if s.lastResort.Load() || s.roomShort.Load() > 0 {
		return true
	}
	return s.cfg.JournalBytes > 0 && s.historyBytesLocked() > 2*s.cfg.JournalBytes
}

// journalBytesLocked is the room that segments with records take.
func (s *Store) journalBytesLocked() (total int64) {
	for _, g := range s.segments {
		total += g.bytes
	}
	return total
}

// syncIfBehind makes sure that nothing volatile is moved into the base.
func (s *Store) syncIfBehind(to Position) error {
	s.mu.RLock()
	path, err := s.tree.path(s.state.Base, s.durable)
	s.mu.RUnlock()
	if err == nil && path.Contains(to) {
		return nil
	}
	return s.syncJournal()
}

// moveHorizon is step 1. It fails softly when someone opened an old position
// since the batch was chosen. Of a batch that was interrupted the horizon has
// moved already.
func (s *Store) moveHorizon(to Position) (moved bool, err error) {
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	s.mu.Lock()
	if s.state.Horizon != s.state.Base && !s.passesLocked(to, s.state.Horizon) {
		s.mu.Unlock()
		return true, nil
	}
	held := s.isHeldLocked(to) && s.state.Horizon != to
	before := s.state.Horizon
	next := s.state
	next.Horizon = to
	if !held {
		s.state = next // no position before it can be opened from here on
	}
	s.mu.Unlock()
	if held || before == to {
		return !held, nil
	}
	if err := s.commit(func(tx kv.Tx) error { return s.cat.saveState(tx, next) }); err != nil {
		s.mu.Lock()
		s.state.Horizon = before
		s.mu.Unlock()
		return false, fmt.Errorf("move horizon to %s: %w", to, err)
	}
	return true, nil
}

// moveBatch is steps 1 and 2. moved is false when somebody opened a position in the
// batch since it was chosen.
func (s *Store) moveBatch(ctx context.Context, parts []pathPart, to Position, verify bool) (merged table, moved bool, err error) {
	if merged, err = tableOf(parts); err != nil {
		return nil, false, err
	}
	pace := s.newPacer()
	if err := s.readAhead(ctx, parts, merged, pace); err != nil {
		return nil, false, err
	}
	if verify {
		if err := s.checkWanted(ctx, parts, merged, pace); err != nil {
			return nil, false, err
		}
	}
	if moved, err = s.moveHorizon(to); err != nil || !moved {
		return nil, false, err
	}
	return merged, true, s.writeBatch(ctx, parts, merged, pace)
}

// checkWanted finds out whether all that a batch needs is whole: what was overwritten
// in it is not needed.
func (s *Store) checkWanted(ctx context.Context, parts []pathPart, merged table, pace *pacer) error {
	var scratch readScratch
	files, p := filesOf(parts), make([]byte, MaxPayloadBytes)
	for _, e := range merged {
		if e.loc.isZeroes() {
			continue
		}
		if err := pace.did(ctx, int64(e.sectors())*SectorBytes); err != nil {
			return err
		}
		x := piece{dst: p[:min(int64(e.sectors())*SectorBytes, MaxPayloadBytes)], g: files[e.loc.segment()], off: e.loc.fileOffset(), at: int64(e.start()) * SectorBytes}
		if err := s.readJournal(&scratch, &x); err != nil {
			return err
		}
	}
	return nil
}

func filesOf(parts []pathPart) map[segmentID]*segment {
	files := make(map[segmentID]*segment, len(parts))
	for _, part := range parts {
		files[part.id] = part.segment
	}
	return files
}

// writeBatch is step 2.
func (s *Store) writeBatch(ctx context.Context, parts []pathPart, merged table, pace *pacer) error {
	files := filesOf(parts)
	w := s.newBaseWriter()
	defer w.join()
	for _, e := range merged {
		if err := w.add(e, files[e.loc.segment()]); err != nil {
			return err
		}
		if err := pace.did(ctx, int64(e.sectors())*SectorBytes); err != nil {
			return err
		}
	}
	if err := w.finish(); err != nil {
		return err
	}
	return s.syncBase()
}

const (
	// soughtBytes is the length below which an extent is read ahead.
	soughtBytes = 64 << 10
	aheadBytes  = 1 << 20
)

// readAhead brings the short extents of a batch into the page cache, in the order in
// which they are on disk, because they are about to be read in that of the volume.
func (s *Store) readAhead(ctx context.Context, parts []pathPart, merged table, pace *pacer) error {
	type place struct {
		id    segmentID
		chunk int64 // of aheadBytes
	}
	wanted := map[place]bool{}
	for _, e := range merged {
		if !e.loc.isZeroes() && e.sectors() < soughtBytes/SectorBytes {
			wanted[place{e.loc.segment(), e.loc.fileOffset() / aheadBytes}] = true
		}
	}
	for _, part := range parts {
		for off := int64(0); off < part.end; off += aheadBytes {
			if !wanted[place{part.id, off / aheadBytes}] {
				continue
			}
			n := min(part.end-off, aheadBytes)
			part.file.StartRead(off, n)
			// Its last byte waits for the rest, so that the disk is asked for no
			// more at once. If it cannot be read, whoever wants it will tell.
			_, _ = part.file.ReadAt(make([]byte, 1), off+n-1)
			if err := pace.did(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// forgetChunk bounds the extents that leave the live index in one go, while
// foreground requests wait.
const forgetChunk = 64

// pruneRuns removes the index runs that no segment is left of.
func (s *Store) pruneRuns() {
	s.mu.RLock()
	ids := slices.Sorted(maps.Keys(s.segments))
	s.mu.RUnlock()
	s.runs.prune(func(key runKey) bool {
		i, _ := slices.BinarySearch(ids, key.start)
		return i < len(ids) && ids[i] < key.end()
	})
}

// forgetDestaged makes the live index lead to the base, which has what a batch up to last
// holds. What the index has on disk goes first: it has older versions of what leaves memory.
func (s *Store) forgetDestaged(merged table, last segmentID) {
	s.mu.Lock()
	passed := s.index.leaveStack(last)
	s.mu.Unlock()
	s.releaseStack(passed)
	for chunk := range slices.Chunk(merged, forgetChunk) {
		s.mu.Lock()
		for _, e := range chunk {
			s.index.remove(e.start(), e.end(), last)
		}
		s.mu.Unlock()
	}
}

// dropBatch is step 3. merged is what the live index may have of the batch. may, if any, is
// asked in the transaction, while no other change of the catalog's state is under way.
func (s *Store) dropBatch(parts []pathPart, to Position, merged table, may func() error) error {
	var dropped []*segment
	for _, part := range parts {
		if part.upTo == part.last {
			dropped = append(dropped, part.segment)
		}
	}
	// A segment that is dropped must not be sealed and entered meanwhile.
	s.sealMu.Lock()
	defer s.sealMu.Unlock()
	s.mu.RLock()
	lines, orphans := s.abandonedLocked(to)
	size := s.sizeOfLocked(parts)
	horizon := to
	if !s.passesLocked(to, s.state.Horizon) {
		horizon = s.state.Horizon // of an interrupted batch there is more
	}
	s.mu.RUnlock()
	for _, g := range orphans {
		if !slices.Contains(dropped, g) { // the batch's own timeline may end here
			dropped = append(dropped, g)
		}
	}
	err := s.changeState(
		func(next *catalogState) { next.Base, next.Horizon, next.BaseBytes = to, horizon, size },
		func(tx kv.Tx) error {
			if may != nil {
				if err := may(); err != nil {
					return err
				}
			}
			for _, g := range dropped {
				if err := s.cat.dropSegment(tx, g.id); err != nil {
					return err
				}
			}
			for _, id := range lines {
				if err := s.cat.dropTimeline(tx, id); err != nil {
					return err
				}
			}
			return nil
		},
		func() {
			for _, id := range lines {
				delete(s.tree.timelines, id)
				delete(s.tree.last, id)
			}
		})
	if err != nil {
		return fmt.Errorf("drop journal up to %s: %w", to, err)
	}
	if left := s.leftParts(parts); len(left) > 0 {
		s.forgetDestaged(merged, left[len(left)-1].id)
	}
	s.leaveSegments(dropped)
	return nil
}

// leftParts are the parts of a batch whose segments are not on the path any more. The last one's
// still is where the base is in its middle now: the live index may lead to newer records in it.
func (s *Store) leftParts(parts []pathPart) []pathPart {
	s.mu.RLock()
	defer s.mu.RUnlock()
	path, err := s.tree.path(s.state.Base, s.tipLocked())
	if n := len(parts); err == nil && n > 0 {
		last := &parts[n-1]
		if last.upTo < last.last && path.Contains(Position{last.timeline, last.upTo + 1}) {
			return parts[:n-1]
		}
	}
	return parts
}

// leaveSegments lets go of segments that the catalog does not name any more.
func (s *Store) leaveSegments(dropped []*segment) {
	s.mu.Lock()
	for _, g := range dropped {
		delete(s.segments, g.id)
		s.damage.healed(g.name, 0, g.bytes)
		delete(s.spared, g)
		delete(s.sparedForPins, g)
		s.dropPendingLocked(g)
		s.dropUnsyncedLocked(g)
	}
	s.mu.Unlock()
	for _, g := range dropped {
		s.giveAllowance(g.bytes)
		s.releaseSegment(g)
	}
}

// abandonedLocked finds the timelines that a horizon at to leaves behind, and
// their segments: neither do they descend from it nor do they lead to it.
func (s *Store) abandonedLocked(to Position) (lines []TimelineID, segments []*segment) {
	for id := range s.tree.timelines {
		if _, err := s.tree.path(to, Position{id, s.tree.last[id]}); err == nil || id == to.Timeline {
			continue
		}
		lines = append(lines, id)
	}
	for _, g := range s.segments {
		if slices.Contains(lines, g.timeline) {
			segments = append(segments, g)
		}
	}
	return lines, segments
}
