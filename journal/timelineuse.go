package journal

import (
	"maps"
	"slices"
)

// TimelineUse is a timeline with what it takes and what keeps it. One that neither is
// active nor leads there, and is neither pinned nor looked at, is an orphan: a rewind,
// a failover or a recovery has left it. It goes, with its segments, when the horizon
// passes the position at which it forked.
type TimelineUse struct {
	Timeline
	Last   Seq   // of its newest record; the parent's where it has none
	Bytes  int64 // of room of its segments
	Active bool
	// Leads is set where the active timeline descends from it, or from a position on it.
	Leads bool
	Pins  []string // on it, ascending
	Views int      // views and readers of it that are open
}

// Orphaned reports whether nothing but the window keeps a timeline.
func (u *TimelineUse) Orphaned() bool {
	return !u.Active && !u.Leads && len(u.Pins) == 0 && u.Views == 0
}

// TimelineUses describes the known timelines, parents before their children.
func (s *Store) TimelineUses() []TimelineUse {
	s.mu.RLock()
	defer s.mu.RUnlock()
	uses := map[TimelineID]*TimelineUse{}
	all := s.tree.sorted()
	for _, line := range all {
		uses[line.ID] = &TimelineUse{Timeline: line, Last: s.tree.last[line.ID], Active: line.ID == s.state.Active}
	}
	for _, g := range s.segments {
		if u := uses[g.timeline]; u != nil && !g.empty() {
			u.Bytes += g.bytes
		}
	}
	for at := s.tipLocked(); ; {
		line, known := s.tree.timelines[at.Timeline]
		if !known {
			break
		}
		uses[line.ID].Leads = line.ID != s.state.Active
		at = line.Parent
	}
	for _, name := range slices.Sorted(maps.Keys(s.pins)) {
		if u := uses[s.pins[name].Timeline]; u != nil {
			u.Pins = append(u.Pins, name)
		}
	}
	s.holdMu.Lock()
	for h := range s.holds {
		if u := uses[h.at.Timeline]; u != nil && !h.point {
			u.Views++
		}
	}
	s.holdMu.Unlock()
	out := make([]TimelineUse, len(all))
	for i, line := range all {
		out[i] = *uses[line.ID]
	}
	return out
}
