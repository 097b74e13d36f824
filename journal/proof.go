package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// findProof looks for a whole frame, behind the place where a timeline seems
// to end, that was written when seq was already durable. There is none behind
// a torn tail: what was written after the last sync knows nothing newer to be
// durable. There is one behind damage, unless the damaged frame was among the
// last ones of all. nil means that none was found.
func findProof(g *segment, from int64, seq Seq, later []*segment) (*Record, error) {
	if r, err := findProofIn(g, from, seq); r != nil || err != nil {
		return r, err
	}
	for _, l := range later {
		if l.timeline != g.timeline || l.first <= seq {
			continue
		}
		if r, err := findProofIn(l, blockBytes, seq); r != nil || err != nil {
			return r, err
		}
	}
	return nil, nil
}

// findProofIn tries every place in a segment's rest where a frame can begin,
// because the length of the one that is not whole cannot be trusted.
func findProofIn(g *segment, from int64, seq Seq) (*Record, error) {
	buf := make([]byte, scanBufferBytes)
	for off := from; off+frameHeaderBytes <= g.bytes; {
		n, err := g.file.ReadAt(buf[:min(int64(len(buf)), g.bytes-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read %s at offset %d: %w", g.name, off, err)
		}
		if n < frameHeaderBytes {
			return nil, nil
		}
		for i := 0; i+frameHeaderBytes <= n; i += frameAlign {
			if binary.LittleEndian.Uint32(buf[i:]) != frameMagic {
				continue
			}
			r, _, durable, err := decodeFrameHeader(buf[i:], g.volume)
			if err == nil && r.Position.Timeline == g.timeline && durable >= seq {
				return &r, nil
			}
		}
		off += int64(n-frameHeaderBytes)&^(frameAlign-1) + frameAlign
	}
	return nil, nil
}
