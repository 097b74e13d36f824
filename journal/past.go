package journal

import (
	"cmp"
	"iter"
	"slices"
)

// Checkpoints returns the durable checkpoints on the active path inside the
// horizon that the history keeps, oldest first. Their Members must not be changed.
func (s *Store) Checkpoints() []Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Checkpoint
	for c := range s.newestFirstLocked() {
		out = append(out, c)
	}
	slices.Reverse(out)
	return out
}

// CheckpointsIn is Checkpoints of a group with numbers in [from, to]; to 0 is without
// an end. What is older is not looked at.
func (s *Store) CheckpointsIn(group string, from, to CheckpointNumber) []Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return numbered(s.newestFirstLocked(), group, from, to)
}

// OpenableIn is CheckpointsIn with all that can be opened: also those that the
// history does not keep any more and that have not been dropped yet. Which these are
// differs from member to member, and from one moment to the next.
func (s *Store) OpenableIn(group string, from, to CheckpointNumber) []Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return numbered(s.allNewestFirstLocked(), group, from, to)
}

// numbered are those of a group with numbers in [from, to], oldest first.
func numbered(newestFirst iter.Seq[Checkpoint], group string, from, to CheckpointNumber) []Checkpoint {
	var out []Checkpoint
	for c := range newestFirst {
		if c.Group != group {
			continue
		}
		if c.Number < from {
			break
		}
		if to == 0 || c.Number <= to {
			out = append(out, c)
		}
	}
	slices.Reverse(out)
	return out
}

// NewestCheckpoint is the last of Checkpoints, without making the others;
// number 0 if there is none.
func (s *Store) NewestCheckpoint() Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.newestFirstLocked() {
		return c
	}
	return Checkpoint{}
}

// OldestCheckpoint is how far history reaches back without pins: the first of
// Checkpoints, without making the others, but for those that are older than the window or
// lie between what was given up, and are there because they are pinned. The newest
// one if that is so of all; number 0 if there is none.
func (s *Store) OldestCheckpoint() Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	path, err := s.tree.path(s.state.Horizon, s.durable)
	if err != nil {
		return Checkpoint{}
	}
	ages := s.ageingLocked()
	outlived := s.outlivedLocked(&ages)
	var newest Checkpoint
	for _, part := range s.partsLocked(path) {
		for _, c := range part.checkpoints {
			if !path.Contains(c.Position) || c.Position.Seq > part.upTo {
				continue
			}
			if newest = c; part.thinned < pinsOnly && !c.Time.Before(outlived.cutoff) {
				return c
			}
		}
	}
	return newest
}

// newestFirstLocked yields the durable checkpoints on the active path inside
// the horizon that the history keeps: all that are young enough, the first of
// each interval, what is pinned, and the newest. What has left the window, and is
// there because of a pin on something older, is not kept. mu is held while it is used.
func (s *Store) newestFirstLocked() iter.Seq[Checkpoint] {
	ages := s.ageingLocked()
	anchors := map[Position]bool{}
	if s.cfg.History.thins() {
		s.eachAnchorLocked(func(at Position) { anchors[at] = true })
	}
	outlived := s.outlivedLocked(&ages)
	return func(yield func(Checkpoint) bool) {
		var later Checkpoint // not yielded yet, because it takes the one before it to tell
		newest := true
		keeps := func(c, before *Checkpoint) bool {
			interval := s.cfg.History.intervalAt(ages.age(c.Time))
			return newest || !outlived.has(c) && beginsInterval(before, c, interval) || anchors[c.Position]
		}
		for c := range s.allNewestFirstLocked() {
			if later.Number != 0 {
				if keeps(&later, &c) && !yield(later) {
					return
				}
				newest = false
			}
			later = c
		}
		if later.Number != 0 && keeps(&later, nil) {
			yield(later)
		}
	}
}

// allNewestFirstLocked yields all durable checkpoints on the active path inside
// the horizon that can be opened.
func (s *Store) allNewestFirstLocked() iter.Seq[Checkpoint] {
	return func(yield func(Checkpoint) bool) {
		path, err := s.tree.path(s.state.Horizon, s.durable)
		if err != nil {
			return
		}
		for _, part := range slices.Backward(s.partsLocked(path)) {
			for _, c := range slices.Backward(part.checkpoints) {
				if !path.Contains(c.Position) || c.Position.Seq > part.upTo || s.thinning != nil && s.thinning.drops(c.Position) {
					continue
				}
				if !yield(c) {
					return
				}
			}
		}
	}
}

// LeftCheckpoints returns the durable checkpoints of a group, or with an empty name of all,
// that a pin keeps and that do not lead to what the volume holds now: a rewind, a failover
// or a recovery has left them behind. They are no part of Checkpoints, and can be opened,
// pinned and forked at as those can. Oldest first; their Members must not be changed.
func (s *Store) LeftCheckpoints(group string) []Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	active, err := s.tree.path(s.state.Horizon, s.tipLocked())
	if err != nil {
		return nil
	}
	var out []Checkpoint
	seen := map[Position]bool{}
	for _, at := range s.pins {
		if seen[at] || active.Contains(at) {
			continue
		}
		seen[at] = true
		if _, err := s.tree.path(s.state.Horizon, at); err != nil {
			continue
		}
		if c, ok := s.checkpointAtLocked(at); ok && (group == "" || c.Group == group) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Checkpoint) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Number, b.Number), cmp.Compare(a.Position.Timeline, b.Position.Timeline))
	})
	return out
}

// checkpointAtLocked returns the checkpoint whose record is at a position. mu must be held.
func (s *Store) checkpointAtLocked(at Position) (Checkpoint, bool) {
	g := s.segmentOfLocked(at)
	if g == nil {
		return Checkpoint{}, false
	}
	i, found := slices.BinarySearchFunc(g.checkpoints, at.Seq, func(c Checkpoint, seq Seq) int { return cmp.Compare(c.Position.Seq, seq) })
	if !found {
		return Checkpoint{}, false
	}
	return g.checkpoints[i], true
}

// ImagePosition is where an image for a new replica is best taken: the durable
// state before the newest durable checkpoint, so that the checkpoint's record
// follows the image and gives the replica a recovery point, even if nothing is
// written any more. Where that state was thinned away it is the checkpoint
// itself, and without a checkpoint the durable position.
func (s *Store) ImagePosition() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.newestFirstLocked() {
		if before := (Position{c.Position.Timeline, c.Position.Seq - 1}); !s.isThinnedLocked(before) {
			return before
		}
		return c.Position
	}
	return s.durable
}
