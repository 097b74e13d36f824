package journal

import "time"

// Timeline is a linear run of records that forks from a parent position.
type Timeline struct {
	ID      TimelineID
	Parent  Position  // where it forks; Timeline 0 for the root
	Created time.Time // wall clock of the site that made it
	Reason  string    // why it was made, e.g. "created", "recovered", "rewind"
}

// Run is a part of one timeline: the records with First <= seq <= Last. Last
// may be First-1 for a timeline that has no record yet.
type Run struct {
	Timeline TimelineID
	First    Seq
	Last     Seq
}

// Path is the runs that lead to a position, oldest first: each begins with
// the seq behind its predecessor's last.
type Path []Run

// Contains reports whether the path goes through pos: whether the state at
// pos is a past (or the present) state of the path's end.
func (p Path) Contains(pos Position) bool {
	for _, run := range p {
		if run.Timeline == pos.Timeline && pos.Seq+1 >= run.First && pos.Seq <= run.Last {
			return true
		}
	}
	return false
}

// Tip is the position at the path's end.
func (p Path) Tip() Position {
	if len(p) == 0 {
		return Position{}
	}
	last := p[len(p)-1]
	return Position{last.Timeline, last.Last}
}

// Common returns the last position that is on both paths; ok is false when
// they share none, which is so for stores whose histories never met or whose
// shared past has left the horizon of one of them.
func Common(a, b Path) (pos Position, ok bool) {
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i].Timeline != b[j].Timeline {
				continue
			}
			last := min(a[i].Last, b[j].Last)
			if last+1 >= a[i].First && last+1 >= b[j].First {
				return Position{a[i].Timeline, last}, true
			}
		}
	}
	return Position{}, false
}
