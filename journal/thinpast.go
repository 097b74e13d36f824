package journal

import (
	"math"
	"time"
)

// What lies behind the position that the horizon could move to, if it were not
// for pins and views, is there for their sake alone once it has left the window:
// nothing between them is needed. This file says what that is, thinpins.go which
// of it is rewritten next. The reasons are in
// docs/decisions/0015-pins-outlive-the-window.md.

// pinsOnly is the interval that a segment was thinned to of which pins, parents
// of timelines and views alone were kept: longer than that of any tier.
const pinsOnly = time.Duration(math.MaxInt64)

// pinnedPast is what is kept for pins and views alone.
type pinnedPast struct {
	from   Position  // the last one that the horizon can move to
	cutoff time.Time // checkpoints before it have left the window
	upTo   segmentID // segments up to it are too much for the budget, or for the disk
}

// ends reports whether what is kept for pins and views alone may end at a
// checkpoint in a segment.
func (p *pinnedPast) ends(c *Checkpoint, in segmentID) bool {
	return c.Time.Before(p.cutoff) || in <= p.upTo
}

// pinnedPastLocked finds it; ok is false if there is none. grace is how much
// older than the window a checkpoint is that is not needed any more.
func (s *Store) pinnedPastLocked(grace time.Duration) (past pinnedPast, ok bool) {
	past.from = s.heldFromLocked()
	if past.from == s.tipLocked() {
		return past, false
	}
	if s.cfg.Window > 0 {
		ages := s.ageingLocked()
		past.cutoff = ages.cutoff(s.cfg.Window + grace)
	}
	past.upTo = s.tooMuchLocked(past.from)
	return past, s.cfg.Window > 0 || past.upTo > 0
}

// heldFromLocked is the last position that the horizon can move to: pins and
// views need what is behind it. It is the tip if none does.
func (s *Store) heldFromLocked() Position {
	at := s.tipLocked()
	way, err := s.tree.path(s.state.Horizon, at)
	if err != nil {
		return s.state.Horizon
	}
	s.eachKeeperLocked(func(kept Position) {
		path, err := s.tree.path(s.state.Horizon, kept)
		common, ok := Common(way, path)
		if err != nil || !ok || common == at {
			return
		}
		if shorter, err := s.tree.path(s.state.Horizon, common); err == nil {
			at, way = common, shorter
		}
	})
	return at
}

// eachKeeperLocked calls fn for what keeps the horizon from moving on, readers and
// KeepPoint apart.
func (s *Store) eachKeeperLocked(fn func(Position)) {
	for _, at := range s.pins {
		fn(at)
	}
	s.holdMu.Lock()
	defer s.holdMu.Unlock()
	for h := range s.holds {
		if !h.yields && !h.point {
			fn(h.at)
		}
	}
}

// tooMuchLocked is the last segment that destage would take from a position of the
// active path on, to come back to the budget, if pins and views let it.
func (s *Store) tooMuchLocked(from Position) (upTo segmentID) {
	over := s.roomShort.Load()
	if s.cfg.JournalBytes > 0 {
		over = max(over, s.historyBytesLocked()-s.cfg.JournalBytes)
	}
	path, err := s.tree.path(from, s.tipLocked())
	if over <= 0 || err != nil {
		return 0
	}
	for _, part := range s.partsLocked(path) {
		if over <= 0 || !part.sealed {
			break
		}
		if part.thinned < pinsOnly {
			over -= part.bytes
			upTo = part.id
		}
	}
	return upTo
}

// historyBytesLocked is the room that the history takes for which there is a
// budget: what is kept for pins and views alone is not part of it.
func (s *Store) historyBytesLocked() (total int64) {
	for _, g := range s.segments {
		total += g.historyBytes()
	}
	return total
}

// historyBytes is what of a segment counts against the budget.
func (g *segment) historyBytes() int64 {
	if g.thinned == pinsOnly {
		return 0
	}
	return g.bytes
}

// outlived says which checkpoints of the active path are older than the window
// and there, if at all, because pins or views hold the horizon.
type outlived struct {
	cutoff time.Time // zero where nothing holds it for longer than the window
	kept   map[Position]bool
}

// outlivedLocked finds out whether pins or views hold what has left the window.
// Without them destage is about to take that, or waits for the end of its segment.
func (s *Store) outlivedLocked(ages *ageing) (o outlived) {
	if s.cfg.Window <= 0 {
		return o
	}
	from, tip := s.heldFromLocked(), s.tipLocked()
	path, err := s.tree.path(from, tip)
	if err != nil || from == tip {
		return o
	}
	cutoff := ages.cutoff(s.cfg.Window)
	for _, part := range s.partsLocked(path) {
		for i := range part.checkpoints {
			c := &part.checkpoints[i]
			if path.Contains(c.Position) && c.Position != from {
				if c.Time.Before(cutoff) {
					o.cutoff, o.kept = cutoff, map[Position]bool{}
					s.eachAnchorLocked(func(at Position) { o.kept[at] = true })
				}
				return o
			}
		}
	}
	return o
}

// has reports whether a checkpoint is not a recovery point any more.
func (o *outlived) has(c *Checkpoint) bool { return c.Time.Before(o.cutoff) && !o.kept[c.Position] }
