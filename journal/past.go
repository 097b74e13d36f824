package journal

import (
	"iter"
	"slices"
)

// Checkpoints returns the durable checkpoints on the active path inside the
// horizon, oldest first. Their Members must not be changed.
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

// OldestCheckpoint is the first of Checkpoints, without making the others;
// number 0 if there is none.
func (s *Store) OldestCheckpoint() Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	path, err := s.tree.path(s.state.Horizon, s.durable)
	if err != nil {
		return Checkpoint{}
	}
	for _, part := range s.partsLocked(path) {
		for _, c := range part.checkpoints {
			if path.Contains(c.Position) && c.Position.Seq <= part.upTo {
				return c
			}
		}
	}
	return Checkpoint{}
}

// newestFirstLocked yields the durable checkpoints on the active path inside
// the horizon. mu is held while it is used.
func (s *Store) newestFirstLocked() iter.Seq[Checkpoint] {
	return func(yield func(Checkpoint) bool) {
		path, err := s.tree.path(s.state.Horizon, s.durable)
		if err != nil {
			return
		}
		for _, part := range slices.Backward(s.partsLocked(path)) {
			for _, c := range slices.Backward(part.checkpoints) {
				if path.Contains(c.Position) && c.Position.Seq <= part.upTo && !yield(c) {
					return
				}
			}
		}
	}
}

// ImagePosition is where an image for a new replica is best taken: the durable
// state before the newest durable checkpoint, so that the checkpoint's record
// follows the image and gives the replica a recovery point, even if nothing is
// written any more. Without a checkpoint it is the durable position.
func (s *Store) ImagePosition() Position {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.newestFirstLocked() {
		return Position{c.Position.Timeline, c.Position.Seq - 1}
	}
	return s.durable
}
