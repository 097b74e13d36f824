package nbd

import "bytes"

// zeroBlock is what blocks are compared with, and what NO_HOLE writes.
var zeroBlock [1 << 20]byte

// holeBlockBytes is the granularity at which replies leave zeroes out.
const holeBlockBytes = 4096

// maxHoles bounds the holes in one reply: shorter ones are sent as data.
const maxHoles = 64

// splitZeroes calls emit for consecutive runs of p that cover it: runs of
// zeroes, at least holeBlockBytes and a maxHoles-th of p long, and the data
// between them. last is set for the run that ends p.
//
// The content decides, not the device's block status: a second question to
// the device would be answered at another moment than the read was.
func splitZeroes(p []byte, emit func(from, to int, zero, last bool)) {
	shortest := max(holeBlockBytes, len(p)/maxHoles)
	dataFrom := 0
	for at := 0; at < len(p); {
		end := zeroesEnd(p, at)
		if end-at < shortest && end-at < len(p) {
			at = max(end, min(at+holeBlockBytes, len(p)))
			continue
		}
		if dataFrom < at {
			emit(dataFrom, at, false, false)
		}
		emit(at, end, true, end == len(p))
		at, dataFrom = end, end
	}
	if dataFrom < len(p) {
		emit(dataFrom, len(p), false, true)
	}
}

// zeroesEnd returns where the run of zero blocks that begins at from ends.
func zeroesEnd(p []byte, from int) int {
	for from < len(p) {
		to := min(from+holeBlockBytes, len(p))
		if !bytes.Equal(p[from:to], zeroBlock[:to-from]) {
			break
		}
		from = to
	}
	return from
}
