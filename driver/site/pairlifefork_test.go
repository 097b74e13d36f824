package site_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-csi/lockstep/driver/groups"
	"github.com/lockstep-csi/lockstep/driver/site"
	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// lifeFork is a writable fork of the group on one of the sites.
type lifeFork struct {
	held  cut  // what its members hold; nil: that of its point, which nobody has looked at
	maybe cut  // what a write that failed has left; nil: nothing did
	doubt bool // its making, its end or its commit failed: it may be there, or not
}

// forkStep has something happen to the forks of a site.
func (l *life) forkStep(s *lifeSite) {
	name := ""
	if names := slices.Sorted(maps.Keys(s.forks)); len(names) > 0 {
		name = names[l.rng.IntN(len(names))]
	}
	switch n := l.rng.IntN(10); {
	case name == "" || n < 2 && len(s.forks) < 3:
		l.makeFork(s)
	case n < 6:
		l.writeFork(s, name)
	case n < 7:
		l.discardFork(s, name)
	case n < 9 && s.name == l.primary && l.back == nil && l.serves():
		l.commitFork(s, name)
	default:
		l.checkFork(s, name)
	}
}

// makeFork makes a fork at any point that a site has.
func (l *life) makeFork(s *lifeSite) {
	points, err := s.opened.Groups().Points(l.ctx, "shop")
	if err != nil {
		l.failed(s, "list points", err, group.ErrNotFound)
		return
	}
	if len(points) == 0 {
		return
	}
	p := points[l.rng.IntN(len(points))]
	n := site.NewFork{Name: fmt.Sprintf("fork-%d", l.next), Group: "shop", At: strconv.FormatUint(uint64(p.Checkpoint), 10)}
	if l.rng.IntN(2) == 0 {
		n.QuotaBytes = int64(len(p.Members)+1) * site.MinForkQuota
	}
	l.next++
	f := &lifeFork{doubt: true}
	s.forks[n.Name] = f
	made, err := s.opened.CreateFork(l.ctx, n)
	if err != nil {
		allowed := []error{group.ErrNoPoint}
		if s.name != l.primary {
			allowed = append(allowed, replacedErrors...)
		}
		l.failed(s, "make "+n.Name+" at site "+s.name, err, allowed...)
		if !s.fault.Crashed() {
			l.noFork(s, n.Name)
		}
		return
	}
	f.doubt = false
	l.logf("%s is made at point %d of site %s", n.Name, made.Point.Checkpoint, s.name)
	l.counts["forks"]++
	l.checkFork(s, n.Name)
}

// noFork makes sure that there is nothing of a fork.
func (l *life) noFork(s *lifeSite, name string) {
	l.t.Helper()
	delete(s.forks, name)
	if f := s.opened.theFork(name); f.Name != "" {
		l.fatalf("site %s has %s still: %+v", s.name, name, f)
	}
	for _, id := range []journal.VolumeID{volumeA, volumeB, volumeC} {
		if s.opened.fork(name, id) != nil {
			l.fatalf("site %s shows volume %d of %s still", s.name, id[0], name)
		}
	}
	points, err := s.opened.Groups().Points(l.ctx, "shop")
	if err != nil {
		l.failed(s, "list points", err, group.ErrNotFound)
		return
	}
	for _, p := range points {
		if slices.Contains(p.Pins, groups.ForkPinPrefix+name) {
			l.fatalf("point %d of site %s is pinned for %s still", p.Checkpoint, s.name, name)
		}
	}
}

// checkFork compares what a fork holds with what was written to it. One may have been given
// up where an image has replaced the store of a replica.
func (l *life) checkFork(s *lifeSite, name string) {
	l.t.Helper()
	f, c := s.forks[name], cut{}
	listed := s.opened.theFork(name)
	switch {
	case s.fault.Crashed():
		return
	case listed.Name == "" && f.doubt:
		l.noFork(s, name)
		return
	case listed.State == site.ForkGivenUp && l.mayGiveUp(s, &listed):
		l.logf("%s of site %s was given up", name, s.name)
		if err := s.opened.DiscardFork(l.ctx, name); err != nil {
			l.failed(s, "forget "+name, err)
			f.doubt = true
			return
		}
		l.noFork(s, name)
		l.counts["forks given up"]++
		return
	case listed.State != site.ForkOpen || listed.Err != nil || !listed.Open:
		l.fatalf("%s of site %s: %+v", name, s.name, listed)
	}
	for _, id := range listed.Members {
		dev := s.opened.fork(name, id)
		ok := dev != nil
		if ok {
			c[id], ok = l.tryImage(s, dev)
		}
		if ok || s.fault.Crashed() {
			continue
		}
		if now := s.opened.theFork(name); now.State != site.ForkGivenUp { // or it was while this looked
			l.fatalf("volume %d of %s of site %s cannot be read: %+v", id[0], name, s.name, now)
		}
		l.checkFork(s, name)
		return
	}
	switch {
	case s.fault.Crashed():
		return
	case f.held == nil:
		l.expectMoment(s, &listed.Point, c, func(id journal.VolumeID) int64 { return s.opened.fork(name, id).SizeBytes() })
	case !maps.Equal(c, f.held) && !maps.Equal(c, f.maybe):
		l.fatalf("%s of site %s holds %v, want %v or %v", name, s.name, c, f.held, f.maybe)
	}
	f.held, f.maybe, f.doubt = c, nil, false
	l.counts["forks read"]++
}

// writeFork writes to some members of a fork, one after the other, or discards.
func (l *life) writeFork(s *lifeSite, name string) {
	f := s.forks[name]
	if l.checkFork(s, name); s.forks[name] == nil || f.doubt || s.fault.Crashed() {
		return
	}
	ids := slices.SortedFunc(maps.Keys(f.held), func(a, b journal.VolumeID) int { return bytes.Compare(a[:], b[:]) })
	for range 1 + l.rng.IntN(6) {
		id, value := ids[l.rng.IntN(len(ids))], l.next
		dev := s.opened.fork(name, id)
		if dev == nil {
			l.checkFork(s, name) // it was given up
			return
		}
		sector := l.rng.IntN(sectorsOf(dev.SizeBytes()))
		l.next++
		discarded := l.rng.IntN(5) == 0
		if discarded {
			value = 0
		}
		image := f.held[id]
		image[sector] = value
		f.maybe = maps.Clone(f.held)
		f.maybe[id] = image
		var err error
		if discarded {
			err = errors.Join(dev.Discard(l.ctx, placeOf(sector), 512), dev.Flush(l.ctx))
		} else {
			err = dev.WriteAt(l.ctx, bytes.Repeat(binary.LittleEndian.AppendUint32(nil, value), 128), placeOf(sector), true)
		}
		if err == nil && l.rng.IntN(3) == 0 { // what nobody looks at uses up the quota
			err = dev.WriteAt(l.ctx, bytes.Repeat([]byte{byte(l.next)}, 256<<10), int64(1+l.rng.IntN(6))<<20, false)
			f.held = f.maybe
		}
		if err != nil {
			l.logf("write to %s of site %s: %v", name, s.name, err)
			l.checkFork(s, name) // the site has crashed, or it was given up
			if s.forks[name] != nil && !s.fault.Crashed() {
				l.fatalf("write to %s of site %s: %v", name, s.name, err)
			}
			return
		}
		f.held, f.maybe = f.maybe, nil
	}
}

// mayGiveUp reports whether a fork was given up for what there was.
func (l *life) mayGiveUp(s *lifeSite, f *site.Fork) bool {
	return strings.Contains(f.Reason, "replaced by a whole image") || s.clock != nil && strings.Contains(f.Reason, "it is older than") && s.clock.Now().After(f.Expires)
}

func (l *life) discardFork(s *lifeSite, name string) {
	s.forks[name].doubt = true
	if err := s.opened.DiscardFork(l.ctx, name); err != nil {
		l.failed(s, "discard "+name, err)
		return
	}
	l.logf("%s of site %s is discarded", name, s.name)
	l.noFork(s, name)
}

// commitFork makes a fork of the primary production, which is a rewind that an undo returns from.
func (l *life) commitFork(s *lifeSite, name string) {
	f := s.forks[name]
	if l.checkFork(s, name); s.forks[name] == nil || f.doubt || s.fault.Crashed() {
		return
	}
	next, left := maps.Clone(l.live), false
	for id, image := range f.held {
		if _, there := next[id]; !there {
			left = true // volumeC was deleted at the other site
		}
		next[id] = image
	}
	f.doubt = true
	done, err := s.opened.CommitFork(l.ctx, "shop", name, false)
	if err != nil {
		if left && errors.Is(err, site.ErrForkClosed) {
			f.doubt = false
			return
		}
		l.maybe, l.begun = next, l.live
		l.failed(s, "commit "+name, err)
		return
	}
	if left {
		l.fatalf("%s of site %s is committed, and has a volume that the group has not", name, s.name)
	}
	l.note(&done.Rewind.From, "before the commit of "+name)
	l.logf("%s is committed as point %d", name, done.Rewind.To.Checkpoint)
	l.back, l.giveUp = l.live, false
	l.leave()
	l.enter(next)
	l.check()
	l.note(&done.Rewind.To, "committed")
	l.counts["fork commits"]++
	if !s.fault.Crashed() { // else the next start removes what is left of it
		l.noFork(s, name)
	}
}

// settleForks looks at the forks of a site that was started again.
func (l *life) settleForks(s *lifeSite) {
	for _, name := range slices.Sorted(maps.Keys(s.forks)) {
		l.checkFork(s, name)
	}
	for _, listed := range s.opened.ListForks() {
		if s.forks[listed.Name] == nil {
			l.fatalf("site %s has %+v", s.name, listed)
		}
	}
}

// endForks takes all forks away.
func (l *life) endForks(s *lifeSite) {
	for _, name := range slices.Sorted(maps.Keys(s.forks)) {
		if l.checkFork(s, name); s.forks[name] != nil {
			l.discardFork(s, name)
		}
	}
	if names, err := s.disk.ReadDir("/root/forks"); err == nil && len(names) > 0 {
		l.fatalf("site %s has files of forks still: %q", s.name, names)
	}
}

// isForked reports whether a fork of a site shows a volume; not ok if the site has crashed.
func (l *life) isForked(s *lifeSite, id journal.VolumeID) (forked, ok bool) {
	for _, name := range slices.Sorted(maps.Keys(s.forks)) {
		if l.checkFork(s, name); s.forks[name] != nil {
			_, its := s.forks[name].held[id]
			forked = forked || its
		}
	}
	return forked, !s.fault.Crashed()
}
