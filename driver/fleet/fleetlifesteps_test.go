package fleet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"strconv"
	"time"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/kv"
	"github.com/lockstep-csi/lockstep/journal"
)

// doom has something happen at the k-th commit of a site's controller from now on; it may
// be called at once from the midst of it. The returned function takes it back.
func (s *lifeFleet) doom(k int, happens func() error) (undo func()) {
	commits, db := 0, s.db
	db.SetHooks(kv.Hooks{BeforeCommit: func() error {
		if s.isDead() {
			return errCrash
		}
		if commits++; commits == k {
			return happens()
		}
		return nil
	}})
	return func() {
		db.SetHooks(kv.Hooks{BeforeCommit: func() error {
			if s.isDead() {
				return errCrash
			}
			return nil
		}})
	}
}

// die has nothing be committed any more.
func (s *lifeFleet) die() {
	s.link.Lock()
	defer s.link.Unlock()
	s.dead = true
}

func (s *lifeFleet) isDead() bool {
	s.link.Lock()
	defer s.link.Unlock()
	return s.dead
}

// call does something at a site, which mostly goes undisturbed.
func (l *life) call(s *lifeFleet, what string, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(l.ctx, 40*time.Second)
	defer cancel()
	if l.rng.IntN(3) == 0 {
		k, id, after := 1+l.rng.IntN(8), l.members()[l.rng.IntN(len(l.members()))], int64(l.rng.IntN(6))
		var happens func() error
		var disturbance string
		switch n := l.rng.IntN(8); {
		case n < 2:
			disturbance, happens = "its caller goes", func() error { cancel(); return nil }
		case n < 4:
			disturbance, happens = "the controller dies", func() error { s.die(); return errCrash }
		case n < 6:
			disturbance, happens = "an engine dies", func() error {
				if f := s.faultsOf(id); f != nil {
					f.CrashAt(f.Count() + 1 + after)
				}
				return nil
			}
		case n < 7:
			disturbance, happens = "an engine of the other site dies", func() error {
				if f := l.sites[s.peer].faultsOf(id); f != nil {
					f.CrashAt(f.Count() + 1 + after)
				}
				return nil
			}
		default:
			disturbance, happens = "the sites are cut off", func() error { l.sites["a"].setApart(true); l.sites["b"].setApart(true); return nil }
		}
		l.logf("at commit %d of a %s: %s", k, what, disturbance)
		defer s.doom(k, happens)()
	}
	err := do(ctx)
	if err != nil {
		l.logf("%s at site %s: %v", what, s.site, err)
		l.unserved = true
	}
	return err
}

// write writes to some members, one after the other.
func (l *life) write() {
	for range 1 + l.rng.IntN(6) {
		ids := l.members()
		id, value := ids[l.rng.IntN(len(ids))], l.next
		sector := l.rng.IntN(sectorsOf(l.sizes[id]))
		l.next++
		image := l.live[id]
		image[sector] = value
		after := maps.Clone(l.live)
		after[id] = image
		if !l.put(l.main(), id, sector, value) {
			l.maybe, l.unserved = append(l.maybe, after), true
			return
		}
		l.enter(after)
		l.counts["writes"]++
	}
}

// put writes one sector; false if that fails.
func (l *life) put(s *lifeFleet, id journal.VolumeID, sector int, value uint32) bool {
	dev := s.device(id)
	if dev == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	err := dev.WriteAt(ctx, bytes.Repeat(binary.LittleEndian.AppendUint32(nil, value), 128), placeOf(sector), l.power || l.rng.IntN(2) == 0)
	if err != nil {
		l.logf("write %d to volume %d of site %s: %v", value, id[0], s.site, err)
	}
	return err == nil
}

// staleWrite is one of somebody who was left behind by a failover. It succeeds only as long
// as the site has not heard of that.
func (l *life) staleWrite() {
	s := l.other()
	if s.stale == nil {
		return
	}
	var st group.State
	if s.fleet != nil {
		st, _ = s.fleet.Groups().State("shop")
	}
	for _, id := range l.members() {
		if _, its := s.stale[id]; !its {
			continue
		}
		sector, value := l.rng.IntN(lifeSectors-lifeGrowths), l.next
		l.next++
		after := maps.Clone(s.stale)
		image := after[id]
		image[sector] = value
		after[id] = image
		if !l.put(s, id, sector, value) {
			s.own, s.stale = append(s.own, after), nil // it may be there, and nobody goes on
			return
		}
		if st.Role == group.RoleReplica {
			l.fatalf("site %s, a replica at term %d, takes a write to volume %d", s.site, st.Term, id[0])
		}
		l.logf("write %d to volume %d of site %s, which has been left", value, id[0], s.site)
		s.own, s.stale = append(s.own, after), after
		l.counts["stale"]++
	}
}

func (l *life) take() (p group.Point, ok bool) {
	s := l.main()
	err := l.call(s, "point", func(ctx context.Context) (err error) {
		p, _, err = s.fleet.Groups().TakePoint(ctx, "shop", "")
		return err
	})
	if err != nil {
		return p, false
	}
	l.note(&p, "taken")
	return p, true
}

// note says that a point is of the present.
func (l *life) note(p *group.Point, what string) {
	l.logf("%s: point %d of site %s", what, p.Checkpoint, l.primary)
	if was, known := l.points[keyOf(p)]; known && !was.agrees(l.live) {
		l.fatalf("point %d is taken twice", p.Checkpoint)
	}
	l.points[keyOf(p)], l.eras[keyOf(p)], l.pointSizes[keyOf(p)] = l.live, l.era, maps.Clone(l.sizes)
	l.counts["points"]++
}

// leave says that points may be left behind.
func (l *life) leave() { l.era++ }

// churn writes what nobody looks at, so that history leaves the journal.
func (l *life) churn() {
	for _, id := range l.members() {
		for i := range 6 {
			dev := l.main().device(id)
			if dev == nil {
				return
			}
			if err := dev.WriteAt(l.ctx, bytes.Repeat([]byte{byte(l.next)}, 64<<10), int64(1+i)<<20, false); err != nil {
				l.logf("write much: %v", err)
				l.unserved = true
				return
			}
		}
	}
}

// replace kills an engine, has its successor take over, or moves its volume.
func (l *life) replace(s *lifeFleet) {
	id := l.members()[l.rng.IntN(len(l.members()))]
	f := s.faultsOf(id)
	if f == nil {
		return
	}
	l.unserved = l.unserved || s == l.main()
	switch n := l.rng.IntN(10); {
	case n < 5:
		after := l.rng.Int64N(40)
		l.logf("the engine of volume %d of site %s dies at change %d from now on", id[0], s.site, after)
		f.CrashAt(f.Count() + 1 + after)
	case n < 7:
		l.logf("the engine of volume %d of site %s is ended", id[0], s.site)
		s.kill(id)
	case n < 8:
		s.mu.Lock()
		s.template = "template" + strconv.Itoa(int(l.next))
		s.mu.Unlock()
		l.logf("engines of site %s are upgraded", s.site)
	default:
		if _, used := s.using[id]; s == l.main() && used && s.fleet != nil {
			l.logf("volume %d of site %s moves", id[0], s.site)
			if l.call(s, "detachment", func(ctx context.Context) error { return s.fleet.Detach(ctx, id) }) == nil {
				delete(s.using, id)
			}
			l.unserved = true
		}
	}
}

// rewind goes back to any point, or ends an open rewind.
func (l *life) rewind() {
	s := l.main()
	if l.back != nil {
		l.endRewind(s)
		return
	}
	points, err := s.fleet.Groups().Points(l.ctx, "shop")
	if err != nil || len(points) == 0 {
		return
	}
	p := &points[l.rng.IntN(len(points))]
	at := strconv.FormatUint(uint64(p.Checkpoint), 10)
	if name, kept := l.pinned(s); kept != nil && l.rng.IntN(3) == 0 {
		at, p = "pin:"+name, kept
	}
	if _, known := l.points[keyOf(p)]; !known { // whoever took it was not told
		c, ok := l.read(s, p)
		if !ok {
			return
		}
		l.points[keyOf(p)] = c
	}
	l.maybe, l.begun = append(l.maybe, l.expectAt(p)), l.live
	var r group.Rewind
	err = l.call(s, "rewind", func(ctx context.Context) error {
		release, err := s.fleet.Wake(ctx, "shop", false)
		if err != nil {
			return err
		}
		defer release()
		r, err = s.fleet.Groups().StartRewind(ctx, "shop", at, false)
		return err
	})
	if err != nil {
		l.leave()
		return
	}
	l.note(&r.From, "before a rewind")
	l.logf("rewound to %s, point %d", at, r.To.Checkpoint)
	l.back = l.live
	l.leave()
	l.enter(l.expectAt(&r.To))
	l.counts["rewinds"]++
	l.unserved = true
}

func (l *life) endRewind(s *lifeFleet) {
	if l.rng.IntN(2) == 0 {
		if l.call(s, "commit", func(ctx context.Context) error {
			_, err := s.fleet.Groups().CommitRewind(ctx, "shop", false)
			return err
		}) == nil {
			l.logf("rewind committed")
			l.back = nil
		}
		return
	}
	l.back = maps.Clone(l.back)
	for id, image := range l.live { // one that has joined since stays as it is
		if _, had := l.back[id]; !had {
			l.back[id] = image
		}
	}
	l.maybe = append(l.maybe, l.back)
	err := l.call(s, "undo", func(ctx context.Context) error {
		release, err := s.fleet.Wake(ctx, "shop", false)
		if err != nil {
			return err
		}
		defer release()
		_, err = s.fleet.Groups().UndoRewind(ctx, "shop", false)
		return err
	})
	l.leave()
	if err != nil {
		return
	}
	l.logf("rewind undone")
	l.enter(l.back)
	l.back, l.unserved = nil, true
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

// failover has the application go on at the other site.
func (l *life) failover() {
	s := l.other()
	l.revive(s)
	st, err := s.fleet.Groups().State("shop")
	if err != nil || st.Role != group.RoleReplica {
		return
	}
	l.detachAll(s)
	if l.rng.IntN(3) == 0 {
		l.main().setApart(true) // it will not hear of it soon
		l.logf("nobody gets to site %s", l.primary)
	}
	newest, err := s.fleet.Groups().NewestPoint(l.ctx, "shop")
	if err != nil {
		newest = nil
	}
	var at group.Point
	err = l.call(s, "failover", func(ctx context.Context) error {
		out, err := s.fleet.Groups().Failover(ctx, "shop", "latest", false)
		at = out.Point
		return err
	})
	if err != nil {
		if !errors.Is(err, group.ErrNoPoint) && !errors.Is(err, group.ErrAway) {
			l.promoting = s.site // an earlier one that has failed may still be carried out
		}
		return
	}
	l.logf("failover to %s at %d of %d members", s.site, at.Checkpoint, len(at.Members))
	if newest != nil && at.Checkpoint < newest.Checkpoint && l.eras[keyOf(newest)] == l.era {
		l.fatalf("failed over to point %d where %d was there", at.Checkpoint, newest.Checkpoint)
	}
	l.moved(s, &at)
}

// plannedFailover goes over without losing anything, where that is possible now.
func (l *life) plannedFailover(within time.Duration) {
	l.detachAll(l.main())
	l.unserved = true
	release, err := l.main().fleet.Wake(l.ctx, "shop", false)
	if err != nil {
		l.logf("wake: %v", err)
		return
	}
	defer release()
	p, ok := l.take()
	if !ok || !l.arrives(&p, within) {
		return
	}
	before := l.live
	from := l.primary
	l.failover()
	if l.promoting != "" {
		l.settleFailover()
	}
	if l.primary != from && !l.live.agrees(before) {
		l.fatalf("a planned failover has lost writes: %v, want %v", l.live, before)
	}
	l.counts["planned"]++
}
