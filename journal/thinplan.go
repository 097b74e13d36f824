package journal

import (
	"maps"
	"slices"
	"time"
)

// Thinning rewrites segments of which the kept checkpoints (see History) do
// not need every record, in the background. This file chooses what is
// rewritten, thinscan.go finds the records that survive, thinwrite.go writes
// them, thin.go puts the result in place of what was there. Why it is done so is in
// docs/decisions/0013-thinning.md.

const (
	// minThinSegments is how many segments a rewrite takes at least, so that
	// what it writes without dropping anything, less than one, is little.
	minThinSegments = 8
	// thinGrace is how much older than its tier a checkpoint is when it is
	// dropped: who has found it in a list can still use it.
	thinGrace = time.Minute
	// thinSettle is how long nothing is dropped after Open: operations that
	// were interrupted are finished first, and a former primary learns where
	// its successor forked.
	thinSettle = 10 * time.Minute
)

// thinJob is a rewrite: segments that follow one another on a timeline.
type thinJob struct {
	timeline TimelineID
	interval time.Duration // of the tier that it is for
	parts    []pathPart    // all of each segment; held
	// exact are the seqs, ascending, at which the state must stay what it is;
	// the last of them is a kept checkpoint in the last part. What is behind
	// that one is not thinned.
	exact []Seq
	// bounds are ids that no new segment may reach across. The live index has
	// those up to one of them in another place than those behind it. And where a
	// timeline was left and taken up again, those that were written meanwhile,
	// and fork from it, lie between: ids must go on to rise along their paths.
	bounds []segmentID
	sizes  int // changes of size in the parts
	// cuts are exact seqs, ascending, at which a new segment may end before it
	// is full, so that destage can go up to there.
	cuts []Seq
}

func (j *thinJob) first() Seq { return j.parts[0].first }
func (j *thinJob) upTo() Seq  { return j.exact[len(j.exact)-1] }
func (j *thinJob) last() Seq  { return j.parts[len(j.parts)-1].last }

func (j *thinJob) keeps(seq Seq) bool {
	_, found := slices.BinarySearch(j.exact, seq)
	return found
}

// drops reports whether a position cannot be opened once the job is done.
func (j *thinJob) drops(at Position) bool {
	return at.Timeline == j.timeline && at.Seq >= j.first() && at.Seq <= j.upTo() && !j.keeps(at.Seq)
}

// nextThinJob chooses what is to be rewritten next and holds it; nil if nothing
// is due. What is kept for pins alone comes first, and then the oldest tier,
// because what these do the younger ones need not do. Where the disk is short
// of space, only what is kept for pins is thinned.
func (s *Store) nextThinJob() *thinJob {
	s.mu.RLock()
	defer s.mu.RUnlock()
	history, now := s.cfg.History, s.cfg.Clock.Now()
	settled := now.Sub(s.opened) >= s.cfg.thinSettle
	if s.usable() != nil || !settled || s.pressed.Load() || s.state.Horizon != s.state.Base {
		return nil
	}
	if job := s.nextPinJobLocked(); job != nil {
		return holdParts(job)
	}
	if !history.thins() || s.roomShort.Load() > 0 || s.isShort() {
		return nil
	}
	ages := s.ageingLocked()
	for tier := len(history) - 1; tier > 0; tier-- {
		cutoff := ages.cutoff(history[tier-1].Age + s.cfg.thinGrace)
		for _, line := range slices.Sorted(maps.Keys(s.tree.timelines)) {
			job := s.jobOfLocked(line, history[tier].Interval, cutoff)
			if job == nil || s.isReadLocked(job) {
				continue
			}
			return holdParts(job)
		}
	}
	return nil
}

func holdParts(job *thinJob) *thinJob {
	for _, part := range job.parts {
		part.users.Add(1)
	}
	return job
}

// jobOfLocked is what is due on a timeline for the tier of an interval: from the
// first segment that has not been thinned so far, to the first checkpoint that
// the tier keeps, is older than cutoff, and lies far enough on.
func (s *Store) jobOfLocked(line TimelineID, interval time.Duration, cutoff time.Time) *thinJob {
	path, err := s.tree.path(s.state.Horizon, Position{line, s.tree.last[line]})
	if err != nil {
		return nil
	}
	job := &thinJob{timeline: line, interval: interval, bounds: s.index.bounds()}
	newest := s.newestPointLocked(line)
	var before *Checkpoint
	for _, part := range s.partsLocked(path) {
		if part.timeline != line {
			for i := range part.checkpoints {
				if part.checkpoints[i].Position.Seq <= part.upTo {
					before = &part.checkpoints[i]
				}
			}
			continue
		}
		if !part.sealed || !s.takeInLocked(job, part) {
			return nil
		}
		for i := range part.checkpoints {
			c := &part.checkpoints[i]
			if !c.Time.Before(cutoff) || c.Position.Seq == newest {
				return nil
			}
			begins := beginsInterval(before, c, interval)
			before = c
			if !begins || len(job.parts) == 0 {
				continue
			}
			job.exact = append(job.exact, c.Position.Seq)
			if len(job.parts) >= s.cfg.minThinSegments && job.hasRoomBehind(c.Position.Seq) {
				return s.withAnchorsLocked(job)
			}
		}
	}
	return nil
}

// takeInLocked adds the next segment of the timeline to a job, unless the job
// has not begun and the segment is not to be rewritten. ok is false if the job
// cannot go on.
func (s *Store) takeInLocked(job *thinJob, part pathPart) (ok bool) {
	done := part.thinned >= job.interval || s.spared[part.segment] >= job.interval || s.straddlesBase(part.segment)
	if len(job.parts) == 0 && done {
		return true
	}
	return s.addPartLocked(job, part)
}

// addPartLocked adds the next segment of the timeline to a job; ok is false if the
// job cannot go on.
func (s *Store) addPartLocked(job *thinJob, part pathPart) (ok bool) {
	if n := len(job.parts); n > 0 && s.isLeftBetweenLocked(job.parts[n-1].id, part.id) {
		job.bounds = append(job.bounds, job.parts[n-1].id)
	}
	job.parts = append(job.parts, part)
	job.sizes += len(part.sizes)
	return job.sizes < maxSegmentSizes
}

// isLeftBetweenLocked reports whether there is a segment with an id between
// those of two that follow one another on a timeline.
func (s *Store) isLeftBetweenLocked(low, high segmentID) bool {
	if int(high-low) <= len(s.segments) {
		for id := low + 1; id < high; id++ {
			if s.segments[id] != nil {
				return true
			}
		}
		return false
	}
	for id := range s.segments {
		if low < id && id < high {
			return true
		}
	}
	return false
}

// hasRoomBehind reports whether the ids of the parts suffice if the job ends at
// seq: what is not thinned of the last part takes that part's own.
func (j *thinJob) hasRoomBehind(seq Seq) bool {
	n := len(j.parts)
	return seq == j.parts[n-1].last || !j.crosses(j.parts[n-2].id, j.parts[n-1].id)
}

// crosses reports whether one of the bounds lies between two ids.
func (j *thinJob) crosses(low, high segmentID) bool {
	return slices.ContainsFunc(j.bounds, func(b segmentID) bool { return low <= b && b < high })
}

func (s *Store) withAnchorsLocked(job *thinJob) *thinJob {
	upTo := job.upTo()
	for _, seq := range s.anchorsLocked(job.timeline) {
		if seq >= job.first() && seq <= upTo {
			job.exact = append(job.exact, seq)
		}
	}
	slices.Sort(job.exact)
	job.exact = slices.Compact(job.exact)
	return job
}

// newestPointLocked is the seq of a timeline's newest checkpoint, which is never
// thinned away, nor is the position before it (see ImagePosition); 0 if it has
// none.
func (s *Store) newestPointLocked(line TimelineID) (newest Seq) {
	for _, g := range s.segments {
		if n := len(g.checkpoints); g.timeline == line && n > 0 {
			newest = max(newest, g.checkpoints[n-1].Position.Seq)
		}
	}
	return newest
}

// isReadLocked reports whether a reader has yet to read what a job drops. As
// with the horizon, it must give way while the journal is strained.
func (s *Store) isReadLocked(job *thinJob) bool {
	if s.strainedLocked() {
		return false
	}
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	for h := range s.holds {
		if !h.yields {
			continue
		}
		path, err := s.tree.path(h.at, s.tipLocked())
		if err != nil {
			continue
		}
		for _, run := range path {
			if run.Timeline == job.timeline && run.First <= job.upTo() && run.Last >= job.first() {
				return true
			}
		}
	}
	return false
}
