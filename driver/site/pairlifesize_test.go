package site_test

import (
	"bytes"
	"maps"
	"slices"

	"github.com/lockstep-csi/lockstep/journal"
)

// growBytes is what an expansion adds.
const growBytes = 1 << 20

// placeOf is where in a volume a sector of its image is: the last ones are at the ends of
// what expansions have added.
func placeOf(sector int) int64 {
	if grown := sector - (lifeSectors - lifeGrowths); grown >= 0 {
		return volumeBytes + int64(grown+1)*growBytes - 512
	}
	return int64(sector) * 512
}

// sectorsOf is how many sectors of its image a volume of some size has.
func sectorsOf(sizeBytes int64) int {
	return lifeSectors - lifeGrowths + int(min(lifeGrowths, (sizeBytes-volumeBytes)/growBytes))
}

// expand makes a volume larger.
func (l *life) expand() {
	s := l.main()
	ids := slices.SortedFunc(maps.Keys(l.live), func(a, b journal.VolumeID) int { return bytes.Compare(a[:], b[:]) })
	id := ids[l.rng.IntN(len(ids))]
	to := l.sizes[id] + growBytes
	l.grown[id] = max(l.grown[id], to)
	if err := s.opened.ExpandVolume(l.ctx, id, to); err != nil {
		l.failed(s, "expand", err)
		return
	}
	l.logf("volume %d is expanded to %d bytes", id[0], to)
	l.counts["expansions"]++
	l.lookAtSizes()
	if l.sizes[id] != to {
		l.fatalf("volume %d has %d bytes, want %d", id[0], l.sizes[id], to)
	}
}

// lookAtSizes finds out how large the primary's devices are: nowhere larger than anybody
// asked for.
func (l *life) lookAtSizes() {
	l.t.Helper()
	for id := range l.live {
		dev := l.main().opened.exports.device(id)
		if dev == nil {
			continue // the site has crashed
		}
		if size := dev.SizeBytes(); size < volumeBytes || size > max(volumeBytes, l.grown[id]) {
			l.fatalf("volume %d of site %s has %d bytes, and was never larger than %d", id[0], l.primary, size, l.grown[id])
		}
		l.sizes[id] = dev.SizeBytes()
	}
}
