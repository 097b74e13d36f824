package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-csi/lockstep/journal"
)

// leapFork is an operation over both members of a site, as package group has it: written
// down, and carried out member by member however often it is interrupted.
type leapFork struct {
	site     *leapSite
	reason   string
	to       [2]journal.Position
	next     int // member
	failover bool
}

// writer is the site that writes: the primary, or the old one as long as that does not
// know better; nil while it is stopped.
func (w *leapWorld) writer() *leapSite {
	if w.split && w.rng.IntN(2) == 0 {
		return w.sites[1-w.primary]
	}
	if w.pending != nil {
		return nil
	}
	return w.sites[w.primary]
}

// rewind forks the primary's members at a point of its list. The way back is pinned.
func (w *leapWorld) rewind() {
	s := w.sites[w.primary]
	keys := w.common(s)
	if w.pending != nil || len(keys) == 0 {
		return
	}
	w.forget(s)
	w.tickOf(s)
	key := keys[w.rng.IntN(len(keys))]
	back := [2]journal.Position{}
	for v, m := range s.members {
		back[v] = m.store.Tip()
		if err := m.store.Pin("rewind:1", back[v]); err != nil {
			w.fail(fmt.Errorf("pin where a rewind began: %w", err))
		}
	}
	w.back = &back
	w.counts.Rewinds++
	w.logf("rewind to point %d", key[0])
	w.begin(&leapFork{site: s, reason: "rewind", to: w.cuts[key]})
}

// undo returns the primary to where it was before the last rewind.
func (w *leapWorld) undo() {
	if w.pending != nil || w.back == nil {
		return
	}
	w.logf("undo of a rewind")
	w.counts.Undone++
	w.begin(&leapFork{site: w.sites[w.primary], reason: "undo", to: *w.back})
}

// forget gives up the way back of a rewind.
func (w *leapWorld) forget(s *leapSite) {
	w.back = nil
	for _, m := range s.members {
		if m.store != nil && m.store.Err() == nil {
			if err := m.store.Unpin("rewind:1"); err != nil && !errors.Is(err, journal.ErrPoisoned) && !errors.Is(err, errDisk) {
				w.fail(err)
			}
		}
	}
}

// failover promotes the replica at one of its newest points. Both sites go on; the
// old primary follows, at once or after it has written for a while.
func (w *leapWorld) failover() {
	s := w.sites[1-w.primary]
	keys := w.common(s)
	if w.split || w.pending != nil || len(keys) == 0 {
		return
	}
	for v := range w.streams {
		if w.streams[v] != nil {
			w.end(v, errors.New("fenced"))
		}
	}
	key := keys[len(keys)-1-w.rng.IntN(min(2, len(keys)))]
	for _, m := range s.members {
		m.heal() // a promotion that fails would only be done again
		m.images = newPartialImages()
	}
	w.forget(w.sites[w.primary])
	if w.split = w.rng.IntN(2) == 0; w.split {
		w.counts.Split++
	}
	w.primary = 1 - w.primary
	w.counts.Failovers++
	w.logf("failover to %s at point %d", s.name, key[0])
	w.begin(&leapFork{site: s, reason: "failover", to: w.cuts[key], failover: true})
}

// begin carries an operation out, or leaves it half done.
func (w *leapWorld) begin(f *leapFork) {
	w.forks++
	f.reason = fmt.Sprintf("%s %d", f.reason, w.forks)
	for v, m := range f.site.members {
		if err := m.store.Hold("operation", f.to[v], 24*time.Hour); err != nil {
			w.fail(fmt.Errorf("hold what is to be forked at: %w", err))
		}
	}
	w.pending = f
	w.finish()
	if w.rng.IntN(2) == 0 {
		w.complete()
	} else {
		w.counts.Halves++
	}
}

// finish forks the next member of an operation that is under way, unless it was done
// before.
func (w *leapWorld) finish() {
	f := w.pending
	if f == nil {
		return
	}
	m := f.site.members[f.next]
	if m.store.Err() != nil {
		m.crash()
	}
	if !m.activeFor(f.reason) {
		if _, err := m.store.Fork(f.to[f.next], f.reason); err != nil {
			w.fail(fmt.Errorf("%s: fork member %d at %s: %w", f.reason, f.next, f.to[f.next], err))
		}
		w.note(m)
	}
	m.store.Release("operation")
	m.store.KeepPoint(journal.Position{}, 0)
	if f.next++; f.next == len(f.site.members) {
		w.pending = nil
		if strings.HasPrefix(f.reason, "undo") {
			w.forget(f.site)
		}
	}
}

func (w *leapWorld) complete() {
	for w.pending != nil {
		w.finish()
	}
}

// activeFor reports whether the active timeline was begun for a reason.
func (m *leapMember) activeFor(reason string) bool {
	active := m.store.Tip().Timeline
	return slices.ContainsFunc(m.store.Timelines(), func(t journal.Timeline) bool { return t.ID == active && t.Reason == reason })
}

// restart ends a member's process in order.
func (w *leapWorld) restart(m *leapMember) {
	if m.store == nil {
		return
	}
	if w.streams[m.index] != nil {
		w.end(m.index, errors.New("a process ends"))
	}
	if m.store.Err() != nil {
		m.crash()
		return
	}
	m.heal()
	m.close()
	m.images = newPartialImages()
	m.open()
	w.counts.Restarts++
}

// squeeze has the members of a site give up most of their history. Those of a replica keep the
// newest point that all of them have, but for one whose disk was full a moment ago.
func (w *leapWorld) squeeze(s *leapSite) {
	keys := w.common(s)
	kept, givenUp := s != w.sites[w.primary] && len(keys) > 0, uint64(0)
	for v, m := range s.members {
		if m.store == nil || m.store.Err() != nil {
			continue
		}
		if kept {
			m.store.KeepPoint(w.cuts[keys[len(keys)-1]][v], time.Hour)
		}
		m.heal()
		usual, givenUpBefore := m.store.Retention(), m.store.Stats().Space.PointsGivenUp
		m.store.SetRetention(journal.Retention{JournalBytes: journal.MinSegmentBytes, Window: usual.Window, History: usual.History})
		before := m.store.Horizon()
		if err := m.store.Maintain(context.Background()); err != nil && !errors.Is(err, journal.ErrPoisoned) && !errors.Is(err, errDisk) {
			w.fail(fmt.Errorf("trim: %w", err))
		}
		m.store.SetRetention(usual)
		givenUp += m.store.Stats().Space.PointsGivenUp - givenUpBefore
		if m.store.Horizon() != before {
			w.counts.Trimmed++
		}
	}
	if kept && givenUp == 0 {
		if now := w.common(s); now != nil && !slices.Contains(now, keys[len(keys)-1]) {
			w.fail(fmt.Errorf("site %s gave its newest point %d up", s.name, keys[len(keys)-1][0]))
		}
		w.counts.Kept++
	}
	w.logf("%s is trimmed", s.name)
}
