package site_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// failed sorts the error of a call: one of a disk that is gone ends the site, and the call
// may have been carried out or not. A primary may hear at any time of a successor whose
// promotion has failed.
func (l *life) failed(s *lifeSite, what string, err error, allowed ...error) {
	l.t.Helper()
	l.logf("%s: %v", what, err)
	if l.promoting == s.peer {
		allowed = append(allowed, engine.ErrReadOnly, group.ErrRole)
	}
	if s.fault.Crashed() || slices.ContainsFunc(allowed, func(target error) bool { return errors.Is(err, target) }) {
		return
	}
	l.fatalf("%s: %v", what, err)
}

func (l *life) join(id journal.VolumeID) {
	s := l.main()
	settings := quiet()
	settings.ReplicateTo, settings.JournalBytes = s.peer, 4*journal.MinSegmentBytes
	next := maps.Clone(l.live)
	next[id] = volumeImage{}
	l.maybe = next
	err := s.opened.CreateVolume(l.ctx, site.NewVolume{ID: id, Name: fmt.Sprintf("volume-%d", id[0]), SizeBytes: volumeBytes, Group: "shop", Settings: settings})
	if err != nil {
		l.failed(s, "create "+id.String(), err, journal.ErrExists, group.ErrRole) // kept for its points, or nothing of it had arrived
		return
	}
	l.maybe = nil
	l.logf("volume %d is made", id[0])
	l.enter(next)
	l.lookAtSizes()
	// The points of one that had this id, and was deleted, are gone.
	l.kept = nil
	maps.DeleteFunc(l.pins, func(_ string, p *group.Point) bool {
		known, told := l.points[keyOf(p)]
		_, its := known[id]
		return its || !told
	})
}

// write writes to some members, one after the other.
func (l *life) write() {
	s := l.main()
	for range 1 + l.rng.IntN(6) {
		ids := slices.SortedFunc(maps.Keys(l.live), func(a, b journal.VolumeID) int { return bytes.Compare(a[:], b[:]) })
		id, value := ids[l.rng.IntN(len(ids))], l.next
		sector := l.rng.IntN(sectorsOf(l.sizes[id]))
		l.next++
		image := l.live[id]
		image[sector] = value
		after := maps.Clone(l.live)
		after[id] = image
		dev := s.opened.exports.device(id)
		if dev == nil {
			if s.fault.Crashed() {
				return
			}
			l.fatalf("volume %d of the primary is not open", id[0])
		}
		l.maybe = after
		if err := dev.WriteAt(l.ctx, bytes.Repeat(binary.LittleEndian.AppendUint32(nil, value), 128), placeOf(sector), true); err != nil {
			l.failed(s, "write", err)
			return
		}
		l.maybe = nil
		l.enter(after)
	}
}

func (l *life) take() {
	s := l.main()
	p, _, err := s.opened.Groups().TakePoint(l.ctx, "shop", "")
	if err != nil {
		l.failed(s, "take a point", err)
		return
	}
	l.note(&p, "taken")
}

// leave says that points, and what is pinned of them, may be left behind.
func (l *life) leave() {
	l.era++
	l.kept = nil
	if _, there := l.live[volumeC]; there && l.kind.ages {
		l.uneven = l.main().clock.Now()
	}
	clear(l.pins)
}

// leaveWith is leave, for a place of which it is known whether volumeC was a member there.
func (l *life) leaveWith(wasMember bool) {
	before := l.uneven
	l.leave()
	if wasMember {
		l.uneven = before
	}
}

// note says that a point is of the present.
func (l *life) note(p *group.Point, what string) {
	l.logf("%s: point %d of site %s", what, p.Checkpoint, l.primary)
	if was, known := l.points[keyOf(p)]; known && !was.agrees(l.live) {
		l.fatalf("point %d is taken twice", p.Checkpoint)
	}
	l.points[keyOf(p)], l.eras[keyOf(p)], l.pointSizes[keyOf(p)] = l.live, l.era, maps.Clone(l.sizes)
	if l.keeps != nil {
		l.kept = append(l.kept, p)
	}
	l.counts["points"]++
}

// churn writes what nobody looks at, so that history leaves the journal.
func (l *life) churn() {
	s := l.main()
	for id := range l.live {
		dev := s.opened.exports.device(id)
		for i := range 6 {
			if dev == nil {
				return
			}
			if err := dev.WriteAt(l.ctx, bytes.Repeat([]byte{byte(l.next)}, 64<<10), int64(1+i)<<20, false); err != nil {
				l.failed(s, "write much", err)
				return
			}
		}
	}
}

// pin keeps a point, or drops what is kept.
func (l *life) pin() {
	s := l.main()
	if len(l.pins) > 2 || len(l.pins) > 0 && l.rng.IntN(3) == 0 {
		name := slices.Min(slices.Collect(maps.Keys(l.pins)))
		delete(l.pins, name)
		if err := s.opened.DropPin(l.ctx, "shop", name); err != nil {
			l.failed(s, "drop a pin", err)
			return
		}
		l.logf("pin %s is dropped", name)
		return
	}
	points, err := s.opened.Groups().Points(l.ctx, "shop")
	if err != nil {
		l.failed(s, "list points", err)
		return
	}
	if len(points) == 0 {
		return
	}
	name, at := fmt.Sprintf("pin-%d", l.next), points[l.rng.IntN(len(points))].Checkpoint
	l.next++
	p, err := s.opened.Groups().PinPoint(l.ctx, "shop", name, strconv.FormatUint(uint64(at), 10))
	if err != nil {
		l.failed(s, "pin", err, group.ErrNoPoint)
		return
	}
	l.logf("point %d of site %s is pinned as %s", at, s.name, name)
	l.pins[name] = &p
	l.counts["pins"]++
}

// checkPins opens what is pinned on the primary.
func (l *life) checkPins() {
	l.t.Helper()
	s := l.main()
	for name, p := range l.pins {
		v, err := s.opened.OpenView(l.ctx, "shop", "pin:"+name)
		if err != nil {
			l.failed(s, "open pin "+name, err)
			return
		}
		if keyOf(&v.Point) != keyOf(p) {
			l.fatalf("pin %s keeps point %d, want %d", name, v.Point.Checkpoint, p.Checkpoint)
		}
		if err := s.opened.CloseView(v.ID); err != nil {
			l.fatalf("close a view: %v", err)
		}
		l.read(s, p)
	}
}

// member makes a third volume, or deletes it.
func (l *life) member() {
	s := l.main()
	if _, there := l.live[volumeC]; !there && l.deleting != s.name {
		l.join(volumeC)
		return
	}
	if l.back != nil {
		return // what an undo returns to has it
	}
	if s.view != nil {
		l.endView(s)
	}
	next := maps.Clone(l.live)
	delete(next, volumeC)
	if forked, ok := l.isForked(s, volumeC); !ok {
		return
	} else if forked {
		if err := s.opened.DeleteVolume(l.ctx, volumeC); !s.fault.Crashed() && !errors.Is(err, groups.ErrInUse) {
			l.fatalf("delete what a fork shows: %v", err)
		}
		return
	}
	l.deleting = s.name
	delete(l.sizes, volumeC)
	if err := s.opened.DeleteVolume(l.ctx, volumeC); err != nil {
		l.failed(s, "delete", err)
		return
	}
	l.logf("volume %d is deleted", volumeC[0])
	l.deleting = ""
	l.enter(next)
	l.counts["deletions"]++
}

// rewind goes back to any point, or ends an open rewind.
func (l *life) rewind() {
	s := l.main()
	g := s.opened.Groups()
	if l.back != nil {
		l.endRewind(g)
		return
	}
	points, err := g.Points(l.ctx, "shop")
	if err != nil {
		l.failed(s, "list points", err)
		return
	}
	if len(points) == 0 {
		return
	}
	l.rewindTo(&points[l.rng.IntN(len(points))])
}

func (l *life) rewindTo(p *group.Point) {
	s := l.main()
	if _, known := l.points[keyOf(p)]; !known { // whoever took it was not told
		c, ok := l.read(s, p)
		if !ok {
			return
		}
		l.points[keyOf(p)] = c
	}
	r, err := s.opened.Groups().StartRewind(l.ctx, "shop", strconv.FormatUint(uint64(p.Checkpoint), 10), false)
	if err != nil {
		l.maybe, l.begun = l.expectAt(p), l.live
		l.failed(s, "rewind", err, group.ErrNoPoint)
		return
	}
	l.note(&r.From, "before a rewind")
	l.logf("rewound to %d", r.To.Checkpoint)
	l.back, l.giveUp = l.live, false
	_, was := r.To.Members[volumeC]
	l.leaveWith(was)
	l.goTo(&r.To)
	l.counts["rewinds"]++
}

func (l *life) endRewind(g *groups.Groups) {
	s := l.main()
	if l.rng.IntN(2) == 0 || l.giveUp { // what was to be given up may be gone
		l.giveUp = true
		if _, err := g.CommitRewind(l.ctx, "shop", false); err != nil {
			l.failed(s, "commit", err)
			return
		}
		l.logf("rewind committed")
		l.back = nil
		return
	}
	_, was := l.back[volumeC]
	if image, made := l.live[volumeC]; made {
		l.back = maps.Clone(l.back)
		if !was {
			l.back[volumeC] = image
		}
	}
	l.maybe = l.back
	if _, err := g.UndoRewind(l.ctx, "shop", false); err != nil {
		l.failed(s, "undo", err)
		return
	}
	l.logf("rewind undone")
	l.maybe = nil
	l.enter(l.back)
	l.back = nil
	l.leaveWith(was)
	l.counts["undos"]++
}

// expectAt is what the members hold at a point; those that it does not have keep what they hold.
func (l *life) expectAt(p *group.Point) cut {
	known, c := l.points[keyOf(p)], maps.Clone(l.live)
	for id := range c {
		if image, ok := known[id]; ok && p.Members[id] != (journal.Position{}) {
			c[id] = image
		}
	}
	return c
}

func (l *life) goTo(p *group.Point) {
	l.maybe = nil
	l.enter(l.expectAt(p))
	l.check()
}

// moved has the application go on with what the new primary has: which members that are is
// what the other site had told. Those of the point hold what they held there.
func (l *life) moved(p *group.Point) {
	l.t.Helper()
	l.keeps = nil // this site may not have heard of the last settings
	s := l.main()
	st, err := s.opened.Groups().State("shop")
	if err != nil {
		l.failed(s, "state", err)
		return
	}
	known, next := l.points[keyOf(p)], cut{}
	for _, id := range st.Members {
		dev := s.opened.exports.device(id)
		if _, its := p.Members[id]; dev == nil && !its {
			continue // nothing of it had arrived
		} else if dev == nil {
			l.failed(s, "look for a device", fmt.Errorf("volume %d is not open", id[0]))
			return
		}
		image, ok := l.imageOf(s, dev)
		if !ok {
			l.promoting = s.name // it is looked at again when it is back
			return
		}
		next[id] = image
	}
	atPoint := maps.Clone(next)
	maps.DeleteFunc(atPoint, func(id journal.VolumeID, _ volumeImage) bool { return p.Members[id] == journal.Position{} })
	if known != nil && !atPoint.agrees(known) || known == nil && !slices.ContainsFunc(l.past, atPoint.agrees) {
		l.fatalf("site %s holds %v at point %d, want %v", s.name, atPoint, p.Checkpoint, known)
	}
	l.maybe = nil
	l.enter(next)
	l.lookAtSizes()
	for id, bytes := range l.pointSizes[keyOf(p)] {
		if _, its := next[id]; its && p.Members[id] != (journal.Position{}) && l.sizes[id] < bytes {
			l.fatalf("volume %d of site %s has %d bytes, and had %d at point %d", id[0], s.name, l.sizes[id], bytes, p.Checkpoint)
		}
	}
}

// failover has the application go on at the other site.
func (l *life) failover() {
	s := l.sites[l.main().peer]
	if s.opened == nil || s.fault.Crashed() {
		return
	}
	g := s.opened.Groups()
	st, err := g.State("shop")
	if err != nil || st.Role != group.RoleReplica {
		return
	}
	newest, err := g.NewestPoint(l.ctx, "shop")
	if err != nil {
		l.failed(s, "look for the newest point", err)
		return
	}
	out, err := g.Failover(l.ctx, "shop", "latest", false)
	if err != nil {
		l.failed(s, "failover", err, group.ErrNoPoint)
		if !errors.Is(err, group.ErrNoPoint) {
			l.promoting = s.name
		}
		return
	}
	l.logf("failover to %s at %d of %d members, term %d", s.name, out.Point.Checkpoint, len(out.Point.Members), out.Term)
	if newest != nil && out.Point.Checkpoint < newest.Checkpoint && l.eras[keyOf(newest)] == l.era {
		l.fatalf("failed over to point %d where %d was there", out.Point.Checkpoint, newest.Checkpoint)
	}
	l.primary, l.back = s.name, nil
	l.leave()
	l.counts["failovers"]++
	l.moved(&out.Point)
}
