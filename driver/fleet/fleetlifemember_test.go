package fleet_test

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/lockstep-csi/lockstep/group"
	"github.com/lockstep-csi/lockstep/journal"
)

// lifeMembers is how many volumes the application has at most.
const lifeMembers = 4

// create makes a volume of the application, which waits for nothing but that.
func (l *life) create(id journal.VolumeID) {
	s := l.main()
	v := newVolume(id[0], "shop")
	v.Settings = group.Settings{ReplicateTo: s.peer, JournalBytes: 4 * journal.MinSegmentBytes}
	v.SizeBytes = lifeBytes
	next := maps.Clone(l.live)
	next[id] = volumeImage{}
	l.eventually("a new volume", func(ctx context.Context) error {
		l.revive(s)
		if len(l.live) == 0 {
			_, err := s.fleet.CreateVolume(ctx, v)
			return err
		}
		return l.call(s, "creation of volume "+strconv.Itoa(int(id[0])), func(ctx context.Context) error {
			_, err := s.fleet.CreateVolume(ctx, v)
			return err
		})
	})
	l.logf("volume %d of site %s is made", id[0], s.site)
	l.lastVolume = max(l.lastVolume, id[0])
	l.sizes[id] = lifeBytes
	l.enter(next)
}

// changeMembers makes another volume, or retires one, whose store stays for as long
// as somebody wants its past.
func (l *life) changeMembers() {
	s := l.main()
	for _, id := range slices.SortedFunc(maps.Keys(s.retired), compareVolumes) {
		if _, back := l.live[id]; back {
			delete(s.retired, id)
			continue
		}
		l.delete(s, id)
		return
	}
	if n := len(l.live); n < 3 || n < lifeMembers && l.rng.IntN(2) == 0 {
		l.create(id(l.lastVolume + 1))
		l.unserved = true
		return
	}
	if l.back != nil {
		return // what an undo returns to has it
	}
	leaves := l.members()[2+l.rng.IntN(len(l.live)-2)]
	next := maps.Clone(l.live)
	delete(next, leaves)
	l.eventually("the end of a volume", func(ctx context.Context) error {
		l.revive(s)
		delete(s.using, leaves)
		if err := s.fleet.Detach(ctx, leaves); err != nil {
			return err
		}
		return l.call(s, "retirement", func(ctx context.Context) error { return s.fleet.RetireVolume(ctx, leaves) })
	})
	l.logf("volume %d of site %s is retired", leaves[0], s.site)
	l.enter(next)
	s.retired[leaves] = true
	l.unserved = true
	l.counts["retirements"]++
	if l.rng.IntN(2) == 0 {
		l.delete(s, leaves)
	}
}

// delete removes a volume that was retired, unless a failover has brought it back.
func (l *life) delete(s *lifeFleet, id journal.VolumeID) {
	l.eventually("the deletion of a volume", func(ctx context.Context) error {
		l.revive(s)
		return l.call(s, "deletion", func(ctx context.Context) error { return s.fleet.DeleteVolume(ctx, id) })
	})
	l.logf("volume %d of site %s is deleted", id[0], s.site)
	delete(s.retired, id)
	for _, pin := range s.pins {
		delete(pin.stores, id)
	}
	l.counts["deletions"]++
}

func compareVolumes(a, b journal.VolumeID) int { return slices.Compare(a[:], b[:]) }
