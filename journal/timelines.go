package journal

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// tree is the store's timelines and how far each reaches. It does no locking.
type tree struct {
	timelines map[TimelineID]Timeline
	last      map[TimelineID]Seq // newest record; the parent's seq while it has none
}

func newTree(timelines map[TimelineID]Timeline) *tree {
	t := &tree{timelines: timelines, last: map[TimelineID]Seq{}}
	for id, line := range timelines {
		t.last[id] = line.Parent.Seq
	}
	return t
}

func (t *tree) add(line Timeline) {
	t.timelines[line.ID] = line
	t.last[line.ID] = line.Parent.Seq
}

// has reports whether pos names a record, or the state before the first one,
// of a known timeline.
func (t *tree) has(pos Position) bool {
	line, ok := t.timelines[pos.Timeline]
	return ok && pos.Seq >= line.Parent.Seq && pos.Seq <= t.last[pos.Timeline]
}

// path returns the runs from the position base, exclusive, to pos. It is
// ErrHorizon if pos does not descend from base and ErrUnknownPosition if pos
// is not known. The first run may be empty (Last = First-1), so that a path
// always names base's own timeline if pos is on it.
func (t *tree) path(base, pos Position) (Path, error) {
	if !t.has(pos) {
		return nil, fmt.Errorf("find path to %s: %w", pos, ErrUnknownPosition)
	}
	var path Path
	for at := pos; ; {
		line, ok := t.timelines[at.Timeline]
		if !ok {
			return nil, fmt.Errorf("find path to %s: %w", pos, ErrHorizon)
		}
		if at.Timeline == base.Timeline {
			if at.Seq < base.Seq {
				return nil, fmt.Errorf("find path to %s: %w", pos, ErrHorizon)
			}
			path = append(path, Run{at.Timeline, base.Seq + 1, at.Seq})
			break
		}
		path = append(path, Run{at.Timeline, line.Parent.Seq + 1, at.Seq})
		at = line.Parent
	}
	slices.Reverse(path)
	return path, nil
}

// sorted returns the timelines, parents before children, siblings by
// creation.
func (t *tree) sorted() []Timeline {
	depth := func(id TimelineID) int {
		n := 0
		for line, ok := t.timelines[id]; ok; line, ok = t.timelines[line.Parent.Timeline] {
			n++
		}
		return n
	}
	var all []Timeline
	for _, line := range t.timelines {
		all = append(all, line)
	}
	slices.SortFunc(all, func(a, b Timeline) int {
		if d := depth(a.ID) - depth(b.ID); d != 0 {
			return d
		}
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return cmp.Compare(a.ID, b.ID)
	})
	return all
}

// newTimelineID draws an id that the tree does not have.
func (t *tree) newTimelineID(random io.Reader) (TimelineID, error) {
	for {
		var b [8]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("draw timeline id: %w", err)
		}
		id := TimelineID(binary.LittleEndian.Uint64(b[:]))
		if _, taken := t.timelines[id]; id != 0 && !taken {
			return id, nil
		}
	}
}
