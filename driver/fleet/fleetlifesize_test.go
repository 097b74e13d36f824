package fleet_test

import (
	"context"

	"github.com/lockstep-csi/lockstep/engine"
	"github.com/lockstep-csi/lockstep/journal"
)

const (
	lifeBytes   = 8 << 20 // what a volume has at first
	growBytes   = 1 << 20 // what an expansion adds
	lifeGrowths = 4
)

// placeOf is where in a volume a sector of its image is: the last ones are at the ends of
// what expansions have added.
func placeOf(sector int) int64 {
	if grown := sector - (lifeSectors - lifeGrowths); grown >= 0 {
		return lifeBytes + int64(grown+1)*growBytes - 512
	}
	return int64(sector) * 512
}

// sectorsOf is how many sectors of its image a volume of some size has.
func sectorsOf(sizeBytes int64) int {
	return lifeSectors - lifeGrowths + int(min(lifeGrowths, (sizeBytes-lifeBytes)/growBytes))
}

// expand makes a volume larger, attached or not.
func (l *life) expand() {
	s := l.main()
	id := l.members()[l.rng.IntN(len(l.members()))]
	to := l.sizes[id] + growBytes
	l.grown[id] = max(l.grown[id], to)
	if l.call(s, "expansion", func(ctx context.Context) error { return s.fleet.ExpandVolume(ctx, id, to) }) != nil {
		return
	}
	l.logf("volume %d is expanded to %d bytes", id[0], to)
	l.sizes[id] = to
	l.counts["expansions"]++
}

// lookAtSize notes the size of a device of the primary: no smaller than somebody was told, nor
// larger than anybody asked for.
func (l *life) lookAtSize(s *lifeFleet, id journal.VolumeID, dev engine.Device) {
	l.t.Helper()
	if size := dev.SizeBytes(); size < max(lifeBytes, l.sizes[id]) || size > max(lifeBytes, l.grown[id]) {
		l.fatalf("volume %d of site %s has %d bytes, want %d to %d", id[0], s.site, size, l.sizes[id], max(lifeBytes, l.grown[id]))
	}
	l.sizes[id] = dev.SizeBytes()
}
