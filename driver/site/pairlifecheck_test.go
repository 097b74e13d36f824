package site_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/internal/vfs"
	"github.com/lockstep-csi/lockstep/journal"
)

// imageOf reads a member of a site; false if that has crashed.
func (l *life) imageOf(s *lifeSite, dev engine.Device) (image volumeImage, ok bool) {
	l.t.Helper()
	image, err := l.readImage(dev)
	if err != nil {
		l.failed(s, "read", err)
	}
	return image, err == nil
}

// tryImage is imageOf where the device may go at any time.
func (l *life) tryImage(s *lifeSite, dev engine.Device) (image volumeImage, ok bool) {
	l.t.Helper()
	image, err := l.readImage(dev)
	if err != nil {
		l.logf("read at site %s: %v", s.name, err)
	}
	return image, err == nil
}

// readImage reads the sectors that a device has; those beyond its end are zeroes.
func (l *life) readImage(dev engine.Device) (image volumeImage, err error) {
	l.t.Helper()
	for i := range sectorsOf(dev.SizeBytes()) {
		sector := make([]byte, 512)
		if err := dev.ReadAt(l.ctx, sector, placeOf(i)); err != nil {
			return image, err
		}
		image[i] = binary.LittleEndian.Uint32(sector)
		if !bytes.Equal(sector, bytes.Repeat(sector[:4], 128)) {
			l.fatalf("sector %d is torn", i)
		}
	}
	return image, nil
}

// present is what the members hold on the primary; false if that has crashed.
func (l *life) present() (c cut, ok bool) {
	l.t.Helper()
	c = cut{}
	for id := range l.live {
		dev := l.main().opened.exports.device(id)
		if dev == nil {
			v, err := l.main().opened.Volume(id)
			if l.main().fault.Crashed() {
				return c, false
			}
			l.fatalf("volume %d of site %s is not open: %+v, %v", id[0], l.primary, v, err)
		}
		if c[id], ok = l.imageOf(l.main(), dev); !ok {
			return c, false
		}
	}
	return c, true
}

// check compares what the members hold with what the application has written.
func (l *life) check() {
	l.t.Helper()
	if c, ok := l.present(); ok && !c.agrees(l.live) {
		l.fatalf("site %s holds %v, want %v", l.primary, c, l.live)
	}
}

// read reads a recovery point, which has to be a moment that there was; false if it is not there
// any more: the site has crashed, or follows another primary, or has given the point up.
func (l *life) read(s *lifeSite, p *group.Point) (c cut, ok bool) {
	l.t.Helper()
	v, err := s.opened.OpenView(l.ctx, "shop", strconv.FormatUint(uint64(p.Checkpoint), 10))
	for range 3 {
		if s.name != l.primary && isReplaced(err) {
			v, err = s.opened.OpenView(l.ctx, "shop", strconv.FormatUint(uint64(p.Checkpoint), 10))
		}
	}
	if err != nil {
		allowed := []error{group.ErrNoPoint}
		if s.name != l.primary {
			allowed = append(allowed, site.ErrNotFound, groups.ErrInUse) // an image is being taken
		}
		l.failed(s, fmt.Sprintf("open point %d of site %s", p.Checkpoint, s.name), err, allowed...)
		l.expectGone(s, p)
		return nil, false
	}
	p = &v.Point // another primary's, perhaps, by now
	c = cut{}
	sizes := map[journal.VolumeID]int64{}
	for _, id := range v.Members {
		dev, err := s.opened.ViewDevice(v.ID, id)
		if err != nil {
			l.fatalf("volume %d of point %d: %v", id[0], p.Checkpoint, err)
		}
		sizes[id] = dev.SizeBytes()
		if c[id], ok = l.imageOf(s, dev); !ok {
			return nil, false
		}
	}
	if err := s.opened.CloseView(v.ID); err != nil {
		l.fatalf("close a view: %v", err)
	}
	l.expectMoment(s, p, c, func(id journal.VolumeID) int64 { return sizes[id] })
	l.counts["read"]++
	return c, true
}

// expectGone makes sure that a point which could not be opened on the primary is not listed any more.
func (l *life) expectGone(s *lifeSite, p *group.Point) {
	l.t.Helper()
	if s.name != l.primary || s.fault.Crashed() {
		return
	}
	points, err := s.opened.Groups().Points(l.ctx, "shop")
	if err != nil {
		l.failed(s, "list points", err)
		return
	}
	if slices.ContainsFunc(points, func(q group.Point) bool { return keyOf(&q) == keyOf(p) }) {
		l.fatalf("point %d of site %s is listed, and cannot be opened", p.Checkpoint, s.name)
	}
}

// expectMoment compares what was read at a point with the moment that it is of.
func (l *life) expectMoment(s *lifeSite, p *group.Point, c cut, sizeOf func(journal.VolumeID) int64) {
	l.t.Helper()
	for id, want := range l.pointSizes[keyOf(p)] {
		if _, its := c[id]; its && sizeOf(id) != want {
			l.fatalf("volume %d of point %d of site %s has %d bytes, want %d", id[0], p.Checkpoint, s.name, sizeOf(id), want)
		}
	}
	if known, ok := l.points[keyOf(p)]; ok {
		if !c.agrees(known) {
			l.fatalf("point %d of site %s holds %v, and held %v when it was taken", p.Checkpoint, s.name, c, known)
		}
	} else if !slices.ContainsFunc(l.past, c.agrees) {
		l.fatalf("point %d of site %s is of a moment that never was: %v", p.Checkpoint, s.name, c)
	}
}

// replacedErrors are those of a replica of which an image is being taken.
var replacedErrors = []error{site.ErrNotFound, groups.ErrInUse, journal.ErrUnknownPosition, journal.ErrClosed, vfs.ErrClosed}

// isReplaced reports whether a call has met a store in the place of which an image has just come.
func isReplaced(err error) bool {
	return errors.Is(err, journal.ErrUnknownPosition) || errors.Is(err, journal.ErrClosed) || errors.Is(err, vfs.ErrClosed)
}

// checkPoints reads some points of each site.
func (l *life) checkPoints() {
	for _, name := range []string{"a", "b"} {
		s := l.sites[name]
		if s.opened == nil || s.fault.Crashed() {
			continue
		}
		points, err := s.opened.Groups().Points(l.ctx, "shop")
		if errors.Is(err, group.ErrNotFound) {
			continue
		}
		if err != nil {
			l.failed(s, "list points", err)
			continue
		}
		if s.name == l.primary && l.keeps != nil {
			l.expectKept(points)
		}
		for range min(2, len(points)) {
			l.read(s, &points[l.rng.IntN(len(points))])
		}
	}
}

// crash ends a site as a power loss does, or a kill, or in order, and starts it again.
func (l *life) crash(s *lifeSite) {
	if s.view = nil; s.name == l.primary {
		l.kept = nil // a round may have been cut off, which leaves its interval without a point
	}
	if s.opened != nil {
		err := s.stop()
		crashed := s.fault.Crashed() // then, perhaps
		power := crashed && l.rng.IntN(2) == 0
		if err != nil && !crashed {
			l.fatalf("stop site %s: %v", s.name, err)
		}
		s.shut()
		switch {
		case power:
			s.disk = s.disk.Crash(l.rng)
		case crashed:
			s.disk = s.disk.KillClone()
		}
		l.verify(s)
		l.logf("site %s ended: crashed %t, power lost %t", s.name, crashed, power)
	}
	if err := l.start(s); err != nil {
		l.fatalf("start site %s: %v", s.name, err)
	}
	l.counts["starts"]++
	l.settle(s)
	l.settleForks(s)
}

// settle finds out what became of calls that failed.
func (l *life) settle(s *lifeSite) {
	l.t.Helper()
	st, err := s.opened.Groups().State("shop")
	if errors.Is(err, group.ErrNotFound) {
		return
	}
	if err != nil {
		l.fatalf("state of site %s: %v", s.name, err)
	}
	if st.Pending != nil {
		l.fatalf("site %s has not finished %+v", s.name, st.Pending)
	}
	if l.promoting == s.name {
		l.promoting = ""
		if st.Role != group.RolePrimary {
			return
		}
		l.primary, l.back, l.maybe = s.name, nil, nil
		l.leave()
		l.moved(&group.Point{Members: s.placesOf(st.Members)})
		return
	}
	if s.name != l.primary || st.Role == group.RoleReplica && l.promoting == s.peer {
		return
	}
	if st.Role != group.RolePrimary {
		l.fatalf("site %s is a %s at term %d, and nobody was promoted", s.name, st.Role, st.Term)
	}
	c := cut{}
	for _, id := range st.Members {
		if dev := s.opened.exports.device(id); dev != nil {
			c[id], _ = l.imageOf(s, dev)
		}
	}
	_, first := c[volumeA]
	_, second := c[volumeB]
	if !first || !second || !c.agrees(l.live) && (l.maybe == nil || !c.agrees(l.maybe)) {
		l.fatalf("site %s came back with %v, want %v or %v", s.name, c, l.live, l.maybe)
	}
	l.enter(c)
	l.maybe = nil
	l.leave()
	had := maps.Clone(l.sizes)
	l.lookAtSizes()
	for id := range l.live {
		if l.sizes[id] < had[id] {
			l.fatalf("volume %d of site %s came back with %d bytes, and had %d", id[0], s.name, l.sizes[id], had[id])
		}
	}
	switch {
	case st.Rewind == nil:
		l.back = nil
	case l.back == nil:
		l.back = l.begun
	}
}

// arrives reports whether the other site comes to have a point as its newest one.
func (l *life) arrives(p *group.Point, within time.Duration) bool {
	other := l.sites[l.main().peer]
	tick, end := time.NewTicker(2*time.Millisecond), time.After(within)
	defer tick.Stop()
	for other.opened != nil && !other.fault.Crashed() {
		if has, err := other.opened.Groups().NewestPoint(l.ctx, "shop"); err == nil && has != nil && keyOf(has) == keyOf(p) {
			return true
		}
		select {
		case <-tick.C:
		case <-end:
			return false
		}
	}
	return false
}

// catchUp gives the other site time to have what there is, if it can.
func (l *life) catchUp() {
	p, err := l.main().opened.Groups().NewestPoint(l.ctx, "shop")
	if err != nil || p == nil || !l.arrives(p, time.Second) {
		return
	}
	l.logf("site %s has point %d", l.main().peer, p.Checkpoint)
	l.counts["arrivals"]++
}

// placesOf are those of a point of which only the members are known: what is open, for of
// the third volume nothing may have arrived.
func (s *lifeSite) placesOf(ids []journal.VolumeID) map[journal.VolumeID]journal.Position {
	places := map[journal.VolumeID]journal.Position{}
	for _, id := range ids {
		if id != volumeC || s.opened.exports.device(id) != nil {
			places[id] = journal.Position{Seq: 1}
		}
	}
	return places
}
