package journal

import (
	"maps"
	"slices"
)

// A part of the past that is kept for pins and views alone is rewritten when that
// can be worth it. What has not been thinned for them yet may be overwritten,
// all of it, by what follows. Of what has been, there is one *unit* for each
// position that was kept: what differs there from the one before. It can be
// dropped, as far as it is overwritten, once its position is not kept any
// more, because its pin was deleted, or because the window that began there has
// moved on. So what a unit can give is the smaller of it and of what follows up to
// the next kept position. Segments are rewritten when they can give a quarter of
// what they take: so whatever is copied in vain was paid for by a third as much
// that has come, or was let go of, since it was copied last, and at most a
// third more is kept than is needed.

// thinBytesPerExtent is what the rewrite of one extent takes in memory, about.
const thinBytesPerExtent = 96

// pinPart is a segment of the past that is kept for pins and views.
type pinPart struct {
	pathPart
	kept []Seq // positions in it that are kept, ascending
	end  Seq   // the last checkpoint in it that a rewrite can end at; 0: none
	raw  bool  // not thinned for pins so far, nor found to be not worth it
	run  uint64
}

// pinSpare says that a rewrite of a segment was found to be not worth it.
type pinSpare struct {
	run  uint64 // the same for all segments of that rewrite
	kept int    // positions in the segment that were kept
}

// pinPiece is the part of a unit that lies in one segment.
type pinPiece struct {
	part   int
	bytes  int64 // about
	closed bool  // its unit ends with it
	kept   bool  // at a position that is kept
}

// nextPinJobLocked chooses what is to be rewritten next of what is kept for pins
// and views; nil if nothing is due.
func (s *Store) nextPinJobLocked() *thinJob {
	past, ok := s.pinnedPastLocked(s.cfg.thinGrace)
	if !ok {
		return nil
	}
	for _, line := range slices.Sorted(maps.Keys(s.tree.timelines)) {
		if job := s.pinJobLocked(line, &past); job != nil && !s.isReadLocked(job) {
			return job
		}
	}
	return nil
}

// pinJobLocked is what is due on a timeline.
func (s *Store) pinJobLocked(line TimelineID, past *pinnedPast) *thinJob {
	parts := s.pinPartsLocked(line, past)
	gains := gainsOf(piecesOf(parts), len(parts))
	for from := 0; from < len(parts); from++ {
		if gains[from] == 0 || splitsRun(parts, from) {
			continue
		}
		to := s.reachOf(parts, gains, from)
		if job := s.pinJobOfLocked(line, parts, from, to); job != nil && s.mayGive(parts[from:from+len(job.parts)]) {
			return job
		}
		from += max(0, (to-from)/2-1)
	}
	return nil
}

// splitsRun reports whether a rewrite that begins or ends before a segment would
// take a part only of what was found to be not worth it as a whole. It would be
// found again, and then another part of it, for ever.
func splitsRun(parts []pinPart, i int) bool {
	return i > 0 && i < len(parts) && parts[i].run != 0 && parts[i].run == parts[i-1].run
}

// pinPartsLocked are the segments of a timeline that a rewrite may take, up to
// the last one in which it can end.
func (s *Store) pinPartsLocked(line TimelineID, past *pinnedPast) []pinPart {
	path, err := s.tree.path(past.from, Position{line, s.tree.last[line]})
	if err != nil {
		return nil
	}
	kept, newest := s.anchorsLocked(line), s.newestPointLocked(line)
	slices.Sort(kept)
	kept = slices.Compact(kept)
	own := path[len(path)-1:]
	var parts []pinPart
	due := 0
	for _, part := range s.partsLocked(own) {
		if !part.sealed {
			break
		}
		if s.straddlesBase(part.segment) {
			continue
		}
		low, _ := slices.BinarySearch(kept, part.first)
		high, _ := slices.BinarySearch(kept, part.last+1)
		p := pinPart{pathPart: part, kept: kept[low:high], raw: part.thinned < pinsOnly}
		if spare, ok := s.sparedForPins[part.segment]; ok && len(p.kept) >= spare.kept {
			p.raw, p.run = false, spare.run
		}
		for i := range part.checkpoints {
			if c := &part.checkpoints[i]; c.Position.Seq >= own[0].First && c.Position.Seq != newest && past.ends(c, part.id) {
				p.end = c.Position.Seq
			}
		}
		parts = append(parts, p)
		if p.end > 0 {
			due = len(parts)
		}
	}
	return parts[:due]
}

// piecesOf divides segments into units. What a segment has is taken to be evenly
// spread.
func piecesOf(parts []pinPart) (pieces []pinPiece) {
	for i := range parts {
		p := &parts[i]
		ends := map[Seq]bool{} // and whether it is kept
		if !p.raw && p.run == 0 {
			for _, c := range p.checkpoints {
				ends[c.Position.Seq] = false
			}
		}
		for _, seq := range p.kept {
			ends[seq] = true
		}
		n := len(pieces)
		for _, seq := range slices.Sorted(maps.Keys(ends)) {
			pieces = append(pieces, pinPiece{part: i, closed: true, kept: ends[seq]})
		}
		if !hasKey(ends, p.last) {
			alone := p.raw || p.run != 0 && (i+1 == len(parts) || parts[i+1].run != p.run)
			pieces = append(pieces, pinPiece{part: i, closed: alone})
		}
		for k := n; k < len(pieces); k++ {
			pieces[k].bytes = p.bytes / int64(len(pieces)-n)
		}
	}
	return pieces
}

func hasKey(m map[Seq]bool, key Seq) bool {
	_, ok := m[key]
	return ok
}

// gainsOf is what rewriting each of n segments can give at most, in bytes.
func gainsOf(pieces []pinPiece, n int) []int64 {
	gains := make([]int64, n)
	follows := int64(0) // up to the next position that is kept
	for high := len(pieces); high > 0; {
		if pieces[high-1].kept {
			follows = 0
		}
		low, unit := high, int64(0)
		for low > 0 && (low == high || !pieces[low-1].closed) {
			low--
			unit += pieces[low].bytes
		}
		if follows > 0 && unit > 0 {
			share := float64(min(unit, follows)) / float64(unit)
			for _, p := range pieces[low:high] {
				gains[p.part] += int64(float64(p.bytes) * share)
			}
		}
		follows += unit
		high = low
	}
	return gains
}

// reachOf is how far a rewrite that begins with a segment goes: as far as it gets
// better, and from there to the next position that is kept, as far as memory
// lets it. It is from where none is worth it.
func (s *Store) reachOf(parts []pinPart, gains []int64, from int) (to int) {
	room := int(s.cfg.IndexMemory / thinBytesPerExtent)
	fits := func(k int) bool {
		room -= parts[k].extents
		return room >= 0 || k <= from+1 // two at least
	}
	to = from
	score, top, left := int64(0), int64(-1), room
	for k := from; k < len(parts) && score >= 0 && fits(k); k++ {
		if score += 4*gains[k] - parts[k].bytes; score > top {
			to, top, left = k+1, score, room
		}
	}
	if top < 0 {
		return from
	}
	room = left
	for len(parts[to-1].kept) == 0 && to < len(parts) && fits(to) {
		to++
	}
	return to
}

// mayGive reports whether the rewrite of segments, and of nothing else, can give enough.
func (s *Store) mayGive(parts []pinPart) bool {
	gains := gainsOf(piecesOf(parts), len(parts))
	var bytes, gain, ofThinned int64
	raw := 0
	for i := range parts {
		bytes, gain = bytes+parts[i].bytes, gain+gains[i]
		switch {
		case !parts[i].raw:
			ofThinned += gains[i]
		case parts[i].generation == 0 || parts[i].thinned > 0: // not the rest of a segment
			raw++
		}
	}
	enough := 2 * s.cfg.SegmentBytes
	if raw > 0 {
		enough = int64(max(2, s.cfg.minThinSegments/2)) * s.cfg.SegmentBytes
	}
	return 4*gain >= bytes && (raw >= s.cfg.minThinSegments || ofThinned >= enough)
}

// pinJobOfLocked is the rewrite of the segments [from, to), or of as many of them as
// it can have; nil if these are too few.
func (s *Store) pinJobOfLocked(line TimelineID, parts []pinPart, from, to int) *thinJob {
	job := &thinJob{timeline: line, interval: pinsOnly, bounds: s.index.bounds()}
	for i := from; i < to; i++ {
		if !s.addPartLocked(job, parts[i].pathPart) {
			break
		}
	}
	for n := len(job.parts); n > 1; n-- {
		job.parts = job.parts[:n]
		end := parts[from+n-1].end
		if end > 0 && !splitsRun(parts, from+n) && job.hasRoomBehind(end) {
			job.exact = []Seq{end}
			s.withAnchorsLocked(job)
			job.cuts = job.checkpointsKept()
			return job
		}
	}
	return nil
}

// checkpointsKept are the exact positions that are those of checkpoints.
func (j *thinJob) checkpointsKept() (seqs []Seq) {
	for i := range j.parts {
		for _, c := range j.parts[i].checkpoints {
			if j.keeps(c.Position.Seq) {
				seqs = append(seqs, c.Position.Seq)
			}
		}
	}
	return seqs
}

// spareForPins leaves a job's segments as they are until the next Open, until
// fewer of their positions are kept, or until enough has come behind them.
func (s *Store) spareForPins(job *thinJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.thinned.Spared++
	s.spareRuns++
	anchors := s.anchorsLocked(job.timeline)
	for _, part := range job.parts {
		kept := 0
		for _, seq := range slices.Compact(slices.Sorted(slices.Values(anchors))) {
			if part.first <= seq && seq <= part.last {
				kept++
			}
		}
		if s.segments[part.id] == part.segment {
			s.sparedForPins[part.segment] = pinSpare{s.spareRuns, kept}
		}
	}
}
