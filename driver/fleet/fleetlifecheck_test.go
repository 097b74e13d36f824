package fleet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// imageOf reads a volume; false if it cannot be read now.
func (l *life) imageOf(dev engine.Device) (image volumeImage, ok bool) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	sector := make([]byte, 512)
	for i := range sectorsOf(dev.SizeBytes()) {
		if err := dev.ReadAt(ctx, sector, placeOf(i)); err != nil {
			l.logf("read: %v", err)
			return image, false
		}
		image[i] = binary.LittleEndian.Uint32(sector)
		if !bytes.Equal(sector, bytes.Repeat(sector[:4], 128)) {
			l.fatalf("sector %d is torn", i)
		}
	}
	return image, true
}

// find returns the last moment of a past that a cut may be; -1: none.
func find(past []cut, c cut) int {
	for i := len(past) - 1; i >= 0; i-- {
		if c.agrees(past[i]) {
			return i
		}
	}
	return -1
}

// read reads a recovery point, which has to be a moment that there was; false if it cannot
// be read now.
func (l *life) read(s *lifeFleet, p *group.Point) (c cut, ok bool) {
	l.t.Helper()
	return l.readAt(s, strconv.FormatUint(uint64(p.Checkpoint), 10), nil)
}

// readAt is read of what somebody names, which has to be a point where that is known.
func (l *life) readAt(s *lifeFleet, at string, is *group.Point) (c cut, ok bool) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, 20*time.Second)
	defer cancel()
	v, err := s.fleet.OpenView(ctx, "shop", at)
	if err != nil {
		l.logf("open point %s of site %s: %v", at, s.site, err)
		return nil, false
	}
	defer func() {
		if err := s.fleet.CloseView(ctx, v.ID); err != nil {
			l.logf("close a view of site %s: %v", s.site, err)
		}
	}()
	p := &v.Point // another primary's, perhaps, by now
	if is != nil && keyOf(is) != keyOf(p) {
		l.fatalf("%s of site %s is point %d, want %d", at, s.site, p.Checkpoint, is.Checkpoint)
	}
	c = cut{}
	for _, m := range v.Members {
		dev := s.views.device(m.Export)
		if dev == nil {
			return nil, false // its engine has died
		}
		if c[m.Volume], ok = l.imageOf(dev); !ok {
			return nil, false
		}
	}
	known, told := l.points[keyOf(p)]
	switch {
	case told && !c.agrees(known):
		l.fatalf("point %d of site %s holds %v, and held %v when it was taken", p.Checkpoint, s.site, c, known)
	case !told && find(l.past, c) < 0 && find(l.maybe, c) < 0 && find(s.own, c) < 0:
		l.fatalf("point %d of site %s is of a moment that never was: %v", p.Checkpoint, s.site, c)
	}
	l.counts["read"]++
	return c, true
}

// checkPoints reads some points of each site.
func (l *life) checkPoints() {
	if l.promoting != "" { // whose points they are is not known before
		l.settleFailover()
	}
	for _, name := range []string{"a", "b"} {
		s := l.sites[name]
		if s.fleet == nil {
			continue
		}
		points, err := s.fleet.Groups().Points(l.ctx, "shop")
		if err != nil {
			l.logf("list points of site %s: %v", name, err)
			continue
		}
		for range min(2, len(points)) {
			l.read(s, &points[l.rng.IntN(len(points))])
		}
		l.checkPins(s)
	}
}

// checkRoles makes sure that the sites do not both claim one term.
func (l *life) checkRoles() {
	var terms []group.Term
	for _, s := range l.sites {
		if s.fleet == nil {
			continue
		}
		if st, err := s.fleet.Groups().State("shop"); err == nil && st.Claimed() == group.RolePrimary {
			terms = append(terms, st.Term)
		}
	}
	if len(terms) == 2 && terms[0] == terms[1] {
		l.fatalf("both sites are primary at term %d", terms[0])
	}
}

// eventually tries something until it is there, for as long as lifeBound.
func (l *life) eventually(what string, try func(ctx context.Context) error) {
	l.t.Helper()
	end := time.Now().Add(lifeBound)
	for {
		ctx, cancel := context.WithTimeout(l.ctx, 30*time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			l.describe()
			l.fatalf("%s does not come about: %v", what, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

var errNotYet = errors.New("not yet")

// serve has the application run at the primary, whatever that takes, and finds out what
// became of calls that failed.
func (l *life) serve() {
	l.t.Helper()
	if l.promoting != "" {
		l.settleFailover()
	}
	s := l.main()
	var st group.State
	l.eventually("the group of site "+s.site, func(context.Context) (err error) {
		l.revive(s)
		if st, err = s.fleet.Groups().State("shop"); err == nil && st.Pending != nil {
			err = errNotYet
		}
		return err
	})
	if st.Role != group.RolePrimary {
		l.fatalf("site %s is a %s at term %d, and nobody was promoted", s.site, st.Role, st.Term)
	}
	c := cut{}
	l.eventually("the application at site "+s.site, func(ctx context.Context) error {
		l.revive(s)
		return l.attachAll(ctx, s, st.Members, c)
	})
	for id := range l.live {
		if _, ok := c[id]; !ok {
			l.fatalf("volume %d of site %s is no member: %v", id[0], s.site, st.Members)
		}
	}
	is := []cut{l.live}
	is = append(is, l.maybe...)
	i := slices.IndexFunc(is, c.agrees)
	if i < 0 {
		l.fatalf("site %s holds %v, want one of %v", s.site, c, is)
	}
	if i > 0 {
		l.logf("what failed was done: %d", i)
	}
	if i > 0 || len(c) > len(l.live) { // or what the other site had of a member has come
		l.enter(c)
	}
	l.maybe, l.unserved = nil, false
	switch {
	case st.Rewind == nil:
		l.back = nil
	case l.back == nil:
		l.back = l.begun
	}
}

// revive starts a controller again that has died.
func (l *life) revive(s *lifeFleet) {
	if s.fleet != nil && !s.isDead() {
		return
	}
	if s.fleet != nil {
		s.halt()
	}
	l.logf("controller of site %s starts again", s.site)
	l.start(s)
}

// attachAll attaches volumes and reads them.
func (l *life) attachAll(ctx context.Context, s *lifeFleet, ids []journal.VolumeID, c cut) error {
	l.t.Helper()
	for _, id := range ids {
		node, used := s.using[id]
		if !used {
			node = "node" + strconv.Itoa(l.rng.IntN(3))
		}
		v, err := s.fleet.Volume(id)
		if err != nil {
			return err
		}
		if a := v.Attach; a != nil && (a.Leaving || a.Node != node) {
			if err := s.fleet.Detach(ctx, id); err != nil {
				return err
			}
		}
		if _, err := s.fleet.Attach(ctx, id, node, plain); errors.Is(err, groups.ErrAbsent) {
			continue
		} else if err != nil {
			return err
		}
		s.using[id] = node
		dev := s.device(id)
		if v, err := s.fleet.Volume(id); err != nil || v.State.Device == "" || !v.Connected || dev == nil {
			return errNotYet
		}
		image, ok := l.imageOf(dev)
		if !ok {
			return errNotYet
		}
		l.lookAtSize(s, id, dev)
		c[id] = image
	}
	return nil
}

// detachAll has nobody use anything at a site.
func (l *life) detachAll(s *lifeFleet) {
	l.t.Helper()
	for _, id := range slices.SortedFunc(maps.Keys(s.using), compareVolumes) {
		delete(s.using, id)
		l.eventually("the detachment of a volume at site "+s.site, func(ctx context.Context) error {
			l.revive(s)
			return s.fleet.Detach(ctx, id)
		})
	}
}

// settleFailover finds out whether a failover that failed was carried out.
func (l *life) settleFailover() {
	l.t.Helper()
	s := l.sites[l.promoting]
	var st group.State
	l.eventually("the end of a failover to site "+s.site, func(context.Context) (err error) {
		l.revive(s)
		if st, err = s.fleet.Groups().State("shop"); err == nil && st.Pending != nil {
			err = errNotYet
		}
		return err
	})
	l.promoting = ""
	if st.Role == group.RolePrimary {
		l.moved(s, nil)
	}
}

// moved has the application go on with what the new primary has: which members that are is
// what the other site had told. Those of the point hold what they held there.
func (l *life) moved(s *lifeFleet, p *group.Point) {
	l.t.Helper()
	old := l.main()
	l.primary, l.back, l.begun, l.promoting = s.site, nil, nil, ""
	l.sizes = map[journal.VolumeID]int64{} // less than there, where nothing of an expansion has come
	l.leave()
	l.counts["failovers"]++
	var st group.State
	next := cut{}
	l.eventually("the application at the new primary", func(ctx context.Context) (err error) {
		l.revive(s)
		if st, err = s.fleet.Groups().State("shop"); err != nil {
			return err
		}
		if st.Pending != nil {
			return errNotYet
		}
		return l.attachAll(ctx, s, st.Members, next)
	})
	if len(next) == 0 {
		l.fatalf("site %s is primary of nothing, of members %v", s.site, st.Members)
	}
	at := maps.Clone(next)
	if p != nil {
		maps.DeleteFunc(at, func(id journal.VolumeID, _ volumeImage) bool { return p.Members[id] == journal.Position{} })
		if known := l.points[keyOf(p)]; known != nil && !at.agrees(known) {
			l.fatalf("site %s holds %v at point %d, want %v", s.site, at, p.Checkpoint, known)
		}
		for id, bytes := range l.pointSizes[keyOf(p)] {
			if _, its := at[id]; its && l.sizes[id] < bytes {
				l.fatalf("volume %d of site %s has %d bytes, and had %d at point %d", id[0], s.site, l.sizes[id], bytes, p.Checkpoint)
			}
		}
	}
	past := append(l.past, l.maybe...)
	old.own, old.stale = slices.Clone(past), maps.Clone(l.live)
	i := find(past, at)
	if i < 0 {
		past = s.own // it had not followed the one that was the primary
		i = find(past, at)
	}
	if i < 0 {
		l.fatalf("site %s holds what never was: %v; it may hold %v", s.site, at, old.own)
	}
	s.own, s.stale = nil, nil
	l.past = slices.Clone(past[:i+1])
	l.enter(next)
	l.unserved = false
}

// arrives reports whether the other site comes to have a point, as its newest one or behind one
// that the clock has brought since.
func (l *life) arrives(p *group.Point, within time.Duration) bool {
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		if o := l.other(); o.fleet != nil && l.main().fleet != nil {
			there, err := l.main().fleet.Groups().NewestPoint(l.ctx, "shop")
			has, failed := o.fleet.Groups().NewestPoint(l.ctx, "shop")
			if err == nil && failed == nil && there != nil && has != nil && there.Checkpoint >= p.Checkpoint && keyOf(has) == keyOf(there) {
				o.own = nil
				return true
			}
		}
		if time.Now().After(end) {
			l.describe()
			return false
		}
	}
}

// describe says how the sites stand.
func (l *life) describe() {
	for _, name := range []string{"a", "b"} {
		s := l.sites[name]
		if s.fleet == nil {
			l.logf("site %s has no controller", name)
			continue
		}
		st, err := s.fleet.Groups().State("shop")
		l.logf("site %s, apart %t: %s at term %d, pending %v, %v", name, s.apart, st.Role, st.Term, st.Pending, err)
		p, err := s.fleet.Groups().NewestPoint(l.ctx, "shop")
		l.logf("its newest point: %+v, %v", p, err)
		for _, v := range s.fleet.Volumes() {
			l.logf("volume %d: connected %t on %q, absent %t, %v; term %d, fenced below %d, device %q, error %q", v.ID[0], v.Connected, v.Node, v.Absent, v.Err, v.State.Term, v.State.FencedBelow, v.State.Device, v.State.Error)
			if at := v.State.Store; at != nil {
				l.logf("  tip %s, durable %s, newest checkpoint %d of %d members, replication %+v", at.Tip, at.Durable, at.Newest.Number, len(at.Newest.Members), v.State.Replication)
			}
		}
	}
}
