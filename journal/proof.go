package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/lockstep-csi/lockstep/internal/vfs"
)

// findProof looks for a whole frame, behind the place where a timeline seems
// to end, that was written when seq was already durable. There is none behind
// a torn tail: what was written after the last sync knows nothing newer to be
// durable. There is one behind damage, unless the damaged frame was among the
// last ones of all. nil means that none was found.
func findProof(g *segment, from int64, seq Seq, later []*segment) (*Record, error) {
	proves := func(r *Record, durable Seq) bool { return r.Position.Timeline == g.timeline && durable >= seq }
	if r, _, err := findFrame(g.file, g.name, g.volume, from, g.bytes, proves); r != nil || err != nil {
		return r, err
	}
	for _, l := range later {
		if l.timeline != g.timeline || l.first <= seq {
			continue
		}
		if r, _, err := findFrame(l.file, l.name, l.volume, blockBytes, l.bytes, proves); r != nil || err != nil {
			return r, err
		}
	}
	return nil, nil
}

// findFrame returns the first whole frame header in [from, end) of a segment
// file that proves something, and its offset; nil if there is none. It tries every place where a frame can begin,
// because the length of one that is not whole cannot be trusted.
func findFrame(file vfs.File, name string, volume VolumeID, from, end int64, proves func(*Record, Seq) bool) (*Record, int64, error) {
	buf := make([]byte, scanBufferBytes)
	for off := from; off+frameHeaderBytes <= end; {
		n, err := file.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("read %s at offset %d: %w", name, off, err)
		}
		if n < frameHeaderBytes {
			return nil, 0, nil
		}
		for i := 0; i+frameHeaderBytes <= n; i += frameAlign {
			if binary.LittleEndian.Uint32(buf[i:]) != frameMagic {
				continue
			}
			r, _, durable, err := decodeFrameHeader(buf[i:], volume)
			if err == nil && proves(&r, durable) {
				return &r, off + int64(i), nil
			}
		}
		off += int64(n-frameHeaderBytes)&^(frameAlign-1) + frameAlign
	}
	return nil, 0, nil
}
