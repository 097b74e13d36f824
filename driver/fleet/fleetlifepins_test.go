package fleet_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// lifePin is a snapshot that somebody takes at a site, and keeps for as long as it likes.
type lifePin struct {
	point *group.Point // nil: whether it was taken is not known
	going bool         // somebody began to drop it
	// stores are those that were pinned: an image in the place of one has none of its pins.
	stores map[journal.VolumeID]string
}

// storeOf is the directory of a volume's store, also while an image is beside it; empty: there
// is none.
func (s *lifeFleet) storeOf(id journal.VolumeID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.backing[id] == nil {
		return ""
	}
	names, err := s.backing[id].ReadDir("/backing")
	if err != nil {
		return ""
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, "store-") })
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	return append(names, "")[0]
}

// stores are those of a point's members.
func (s *lifeFleet) stores(p *group.Point) map[journal.VolumeID]string {
	all := map[journal.VolumeID]string{}
	for id := range p.Members {
		all[id] = s.storeOf(id)
	}
	return all
}

// hasPinned reports whether a site still has the stores that a snapshot has pinned. One of a volume
// that was deleted need not be there, also where a failover has brought the volume back.
func (s *lifeFleet) hasPinned(pin *lifePin) bool {
	for id, name := range pin.stores {
		if s.storeOf(id) != name {
			return false
		}
	}
	return true
}

// snapshot takes a snapshot, repeats one of which nobody knows whether it was taken, or drops one.
func (l *life) snapshot() {
	s := l.main()
	names := slices.Sorted(maps.Keys(s.pins))
	for _, name := range names {
		if pin := s.pins[name]; pin.going || pin.point == nil && l.rng.IntN(2) == 0 {
			l.unpin(s, name)
			return
		} else if pin.point == nil {
			l.pin(s, name, "")
			return
		}
	}
	if len(names) > 2 || len(names) > 0 && l.rng.IntN(3) == 0 {
		l.unpin(s, names[l.rng.IntN(len(names))])
		return
	}
	at := ""
	if points, err := s.fleet.Groups().Points(l.ctx, "shop"); err == nil && len(points) > 0 && l.rng.IntN(2) == 0 {
		at = strconv.FormatUint(uint64(points[l.rng.IntN(len(points))].Checkpoint), 10)
	}
	name := fmt.Sprintf("snap-%03d", l.next)
	l.next++
	s.pins[name] = &lifePin{}
	l.pin(s, name, at)
}

func (l *life) pin(s *lifeFleet, name, at string) {
	pin := s.pins[name]
	var p group.Point
	var sizes map[journal.VolumeID]int64
	err := l.call(s, "snapshot "+name, func(ctx context.Context) (err error) {
		p, sizes, err = s.fleet.PinPoint(ctx, "shop", name, at)
		return err
	})
	if err != nil {
		if errors.Is(err, group.ErrNoPoint) && pin.point == nil {
			l.unpin(s, name)
		}
		return
	}
	for id := range p.Members {
		if sizes[id] < lifeBytes || sizes[id] > max(lifeBytes, l.grown[id]) {
			l.fatalf("snapshot %s of site %s has %d bytes of volume %d, which had %d at most", name, s.site, sizes[id], id[0], l.grown[id])
		}
	}
	l.logf("snapshot %s of site %s keeps point %d", name, s.site, p.Checkpoint)
	pin.point, pin.stores = &p, s.stores(&p)
	if _, known := l.points[keyOf(&p)]; !known {
		if c, ok := l.readAt(s, "pin:"+name, &p); ok {
			l.points[keyOf(&p)] = c
		}
	}
	l.counts["snapshots"]++
}

func (l *life) unpin(s *lifeFleet, name string) {
	s.pins[name].going = true
	err := l.call(s, "end of snapshot "+name, func(ctx context.Context) error { return s.fleet.UnpinPoint(ctx, "shop", name) })
	if err != nil {
		return
	}
	l.logf("snapshot %s of site %s is dropped", name, s.site)
	delete(s.pins, name)
	s.unpinned[name] = true
}

// checkPins lists what a site's snapshots keep, and reads one of them.
func (l *life) checkPins(s *lifeFleet) {
	l.t.Helper()
	if len(s.pins) == 0 && len(s.unpinned) == 0 {
		return
	}
	var kept map[string]*group.Point
	l.eventually("the snapshots of site "+s.site, func(ctx context.Context) error {
		l.revive(s)
		release, err := s.fleet.Wake(ctx, "shop", true)
		if err != nil {
			return err
		}
		defer release()
		points, err := s.fleet.Groups().PinnedPoints(ctx, "shop")
		if err != nil {
			return err
		}
		kept = map[string]*group.Point{}
		for i := range points {
			for _, name := range points[i].Pins {
				kept[name] = &points[i]
			}
		}
		return l.missing(s, kept)
	})
	for name, p := range kept {
		if s.unpinned[name] {
			l.fatalf("site %s has snapshot %s of point %d, which was dropped", s.site, name, p.Checkpoint)
		}
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(s.pins)), func(name string) bool { return s.pins[name].point == nil || s.pins[name].going })
	if len(names) > 0 {
		name := names[l.rng.IntN(len(names))]
		if _, ok := l.readAt(s, "pin:"+name, s.pins[name].point); ok {
			l.counts["snapshots read"]++
		}
	}
}

// missing says which snapshot of a site is not among those that are kept. One of a store
// in whose place an image has come is gone.
func (l *life) missing(s *lifeFleet, kept map[string]*group.Point) error {
	for name, pin := range s.pins {
		if pin.point == nil || pin.going {
			continue
		}
		p := kept[name]
		if p == nil && !s.hasPinned(pin) {
			l.logf("snapshot %s of site %s is gone with its store", name, s.site)
			delete(s.pins, name)
			l.counts["snapshots lost"]++
			continue
		}
		if p == nil {
			return fmt.Errorf("%w: site %s has no snapshot %s of point %d", errNotYet, s.site, name, pin.point.Checkpoint)
		}
		if keyOf(p) != keyOf(pin.point) {
			l.fatalf("snapshot %s of site %s is of point %d at %s, want %d at %s", name, s.site, p.Checkpoint, p.Time, pin.point.Checkpoint, pin.point.Time)
		}
	}
	return nil
}

// pinned chooses a snapshot of a site that surely is there.
func (l *life) pinned(s *lifeFleet) (name string, p *group.Point) {
	for _, name := range slices.Sorted(maps.Keys(s.pins)) {
		if pin := s.pins[name]; pin.point != nil && !pin.going && s.hasPinned(pin) {
			if _, known := l.points[keyOf(pin.point)]; known {
				return name, pin.point
			}
		}
	}
	return "", nil
}
